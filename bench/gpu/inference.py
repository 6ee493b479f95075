"""The time of networks and of inspections."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.gpu.check import Check, Rows


def inference(check: Check) -> Rows:
    """Time batches of the network, plainly and captured, and whole inspections."""
    from anomaly.bundle import load_bundle
    from anomaly.runtime import detector_of

    bundle = load_bundle(check.model, check_golden=False)
    yield from _timed("demo, 224 px", bundle.model.eval(), check, partial(detector_of, bundle))


def recipes(check: Check) -> Rows:
    """Time the networks of larger recipes; untrained ones cost the same."""
    from anomaly.model import AnomalyModel
    from training.config import load_recipe

    for recipe, side in (("fast", 64),) if check.small else (("default", 448), ("best", 448)):
        config = load_recipe(recipe, [f"model.preprocess.canvas={side}"]).model
        yield from _timed(f"{recipe}, {side} px", AnomalyModel.fresh(config).eval(), check)


def _timed(name: str, model: Any, check: Check, detector: Callable[..., Any] | None = None) -> Rows:
    import torch

    from anomaly.cuda_graphs import StagedModel
    from anomaly.model import AnomalyModel
    from anomaly.preprocess import content_seed
    from anomaly.types import Placement

    assert isinstance(model, AnomalyModel)
    sizes = (1, 4) if check.small else (1, 4, 16, 64)
    side = model.config.preprocess.canvas
    model = model.to(check.device)
    staged = StagedModel(model, check.device, max(sizes))
    flops = operations(model, check.device)

    def plainly(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
        model(pixels.to(check.device), seeds).cpu()

    ways: dict[str, Callable[[torch.Tensor, Sequence[int]], Any]]
    ways = {"plain": plainly, "captured": staged}
    if detector is not None:
        whole_detector, place = detector(check.device, staged=max(sizes)), Placement.filling(side)

        def inspected(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
            whole_detector.detect_canvases(pixels, [place] * len(seeds))

        def by_one_thread(pixels: torch.Tensor, seeds: Sequence[int]) -> None:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            inspected(pixels, seeds)
            torch.set_num_threads(threads)

        ways |= {"inspected": inspected, "inspected, one thread": by_one_thread}
    for size in sizes:
        pixels = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(0))
        seeds = [content_seed(canvas) for canvas in pixels]
        for way, run in ways.items():
            seconds_taken = _repeat(partial(run, pixels, seeds), 0.5 if check.small else 1.5)
            rate = size / statistics.median(seconds_taken)
            yield {
                "model": name,
                "way": way,
                "batch": size,
                "images/s": rate,
                "p50 ms": 1000 * statistics.median(seconds_taken),
                "p99 ms": 1000 * sorted(seconds_taken)[int(0.99 * len(seconds_taken))],
                "of the bf16 rate": rate * flops / check.peak if check.peak else None,
            }


def operations(model: Any, device: Any) -> float:
    """Count the matrix operations of one image's evidence."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from anomaly.scoring_path import ScoringPath, mask_indices

    side = model.config.preprocess.canvas
    path = ScoringPath(model).eval()
    indices = [indices_.to(device) for indices_ in mask_indices(model, [0])]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        path(torch.zeros(1, 3, side, side, device=device), *indices)
    return float(counter.get_total_flops())


def _repeat(run: Callable[[], Any], seconds: float) -> list[float]:
    for _ in range(3):
        run()
    seconds_taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(seconds_taken) < 5:
        started = time.perf_counter()
        run()
        seconds_taken.append(time.perf_counter() - started)
    return seconds_taken
