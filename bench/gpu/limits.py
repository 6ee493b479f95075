"""The device's own limits."""

import time

from bench.gpu.check import Check, Rows


def limits(check: Check) -> Rows:
    """Measure the largest products and copies: what everything else is a share of."""
    import torch

    from training.meter import finish, matrix_rate

    side = 1024 if check.small else 8192
    for dtype in (torch.bfloat16, torch.float32):
        rate = matrix_rate(check.device, dtype, side)
        check.peak = max(check.peak, rate)
        yield {"limit": f"products of {side}² in {dtype}", "TFLOP/s": rate / 1e12}
    source = torch.empty(2**20 if check.small else 2**29, device=check.device)
    target = torch.empty_like(source)
    target.copy_(source)
    finish(check.device)
    started = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    finish(check.device)
    moved = 10 * 2 * source.numel() * source.element_size()
    yield {"limit": "copies", "TB/s": moved / (time.perf_counter() - started) / 1e12}
