"""The scoring path in fixed batch sizes, each captured once as a CUDA graph.

An inspection is hundreds of small kernels; launched one by one they leave a fast card waiting for
the processor. A graph is launched as one. Its shapes and addresses are fixed: a batch is filled up
to the next size and copied through pinned memory into buffers that stay where they are.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch

from anomaly.model import AnomalyModel
from anomaly.scoring import Evidence
from anomaly.scoring_path import ScoringPath, mask_indices

_log = logging.getLogger(__name__)
_Outputs = tuple[torch.Tensor, torch.Tensor]
_WARM_UP = 3  # runs before a capture: libraries choose algorithms and allocate workspaces in them


class StagedModel:
    """Stands in for `AnomalyModel` in a detector: the same call, with canvases on the CPU.

    Batches up to `limit` images are one graph, of the next power of two; larger ones are several.
    The autoencoder computes in bfloat16. On a CPU there is nothing to capture, and each size is a
    plain call. Sizes that do not fit the device's memory are left out.
    """

    def __init__(
        self,
        model: AnomalyModel,
        device: torch.device,
        limit: int,
        precision: torch.dtype = torch.bfloat16,
    ) -> None:
        self._model = model
        halves = str(precision).removeprefix("torch.")
        self.engine = f"torch {torch.__version__.partition('+')[0]}, autoencoder in {halves}"
        # Kept for its buffers: a graph holds addresses only, and what lies there must not be freed.
        self._path = path = ScoringPath(model, precision).to(device).eval()
        self._stages: dict[int, _Stage] = {}
        for size in reversed(sizes_to(limit)):  # the largest first: smaller ones reuse its memory
            try:
                self._stages[size] = _Stage(path, size, device)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                _log.warning("batches of %d images do not fit %s: smaller ones serve", size, device)

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        """Raw evidence on (B, 3, S, S) canvases, on the CPU; image i is masked by seed i."""
        parts, start = [], 0
        while start < len(seeds):
            size = fitting(len(seeds) - start, list(self._stages))
            part = slice(start, start + size)
            indices = mask_indices(self._model, seeds[part])
            parts.append(self._stages[size](pixels[part], *indices))
            start += size
        values, differences = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Evidence(values, self._model.names, differences)


def sizes_to(limit: int) -> list[int]:
    """Return 1, 2, 4 and so on, up to the first that holds `limit`."""
    sizes = [1]
    while sizes[-1] < limit:
        sizes.append(2 * sizes[-1])
    return sizes


def fitting(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest size that holds so many images, or the largest there is."""
    return min((size for size in sizes if size >= count), default=max(sizes))


class _Stage:
    """One batch size: its buffers, and what computes evidence from them."""

    def __init__(self, path: ScoringPath, size: int, device: torch.device) -> None:
        side = path.model.config.preprocess.canvas
        example = (torch.zeros(size, 3, side, side), *mask_indices(path.model, [0] * size))
        on_gpu = device.type == "cuda"
        self._host = [tensor.pin_memory() if on_gpu else tensor.clone() for tensor in example]
        self._here = [tensor.to(device) for tensor in self._host]  # on a CPU the same tensors
        self._compute = _captured(path, self._here) if on_gpu else partial(path, *self._here)

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evidence (n, R, E, L) on the CPU of n images, up to the stage's size.

        Their differences (n, L, C) stay on the device, out of the graph's reach.
        """
        count = len(inputs[0])
        for host, here, source in zip(self._host, self._here, inputs, strict=True):
            host[:count].copy_(source)
            host[count:].copy_(source[:1].expand_as(host[count:]))
            here.copy_(host, non_blocking=True)
        values, differences = self._compute()
        aside = differences[:count].clone()
        return values[:count].cpu(), aside  # waits: the pinned buffers are free again


@torch.inference_mode()
def _captured(path: ScoringPath, inputs: Sequence[torch.Tensor]) -> Callable[[], _Outputs]:
    """Record one run of the path over fixed buffers; the result replays it."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            path(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs: _Outputs = path(*inputs)

    def replay() -> _Outputs:
        graph.replay()
        return outputs

    return replay
