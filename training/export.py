"""A model as an ONNX graph, kept only where it gives the same scores in less time.

Both are timed with the threads that a batch of the service has: under load there are no more, and
alone a graph gets those of all cores while torch keeps its own.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from anomaly.device import Cores, share_cores, usable_cores
from anomaly.errors import ExportFailed
from anomaly.model import AnomalyModel
from anomaly.onnx_model import OnnxModel, export_onnx
from anomaly.openvino_model import OpenVinoModel, pays_here
from anomaly.scoring import Evidence

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-3  # of each kind's largest value
_ROUNDS = 9
_TORCH = "torch"

Network = Callable[[torch.Tensor, Sequence[int]], Evidence]


@dataclass(frozen=True, slots=True)
class Exported:
    """A checked graph, and the median milliseconds of an image by torch and by each engine."""

    graph: bytes
    milliseconds: Mapping[str, float]

    @property
    def least_ms(self) -> float:
        """What an image takes by the fastest of them."""
        return min(self.milliseconds.values())

    @property
    def is_faster(self) -> bool:
        """Whether the graph is worth its place on disk."""
        return self.least_ms < 0.95 * self.milliseconds[_TORCH]

    def __str__(self) -> str:
        """Say how long an image takes by each of them."""
        return ", ".join(f"{ms:.1f} ms by {name}" for name, ms in self.milliseconds.items())


def export_model(model: AnomalyModel) -> Exported:
    """Export a model on the CPU and hold the graph to it; raises `ExportFailed` if they differ."""
    model = model.cpu().eval()
    graph = export_onnx(model)
    share = share_cores("cpu", usable_cores())
    lane = Cores(1, min(share.threads, torch.get_num_threads()))
    network = OnnxModel(model, graph, lane)
    side = model.config.preprocess.canvas
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected, by_graph = model(pixels, [1]).values, network(pixels, [1]).values
    allowed = _TOLERANCE * expected.abs().amax(dim=3, keepdim=True).clamp(min=1e-3)
    if not bool(((by_graph - expected).abs() <= allowed).all()):
        worst = float((by_graph - expected).abs().max())
        raise ExportFailed(f"the exported graph differs from the model by up to {worst:.4g}")
    networks: dict[str, Network] = {_TORCH: model, "ONNX Runtime": network}
    if model.needs_predictions and pays_here():
        networks["OpenVINO, the autoencoder in bfloat16"] = OpenVinoModel(model, graph, lane)
    with _threads(lane.threads):
        rounds = [[_ms(timed, pixels) for timed in networks.values()] for _ in range(_ROUNDS)]
    medians = [statistics.median(timings) for timings in zip(*rounds, strict=True)]
    exported = Exported(graph, dict(zip(networks, medians, strict=True)))
    _log.info("one image, %d thread(s): %s", lane.threads, exported)
    return exported


def inspection_ms(model: AnomalyModel, *, with_graph: bool) -> float:
    """Median milliseconds of one image through a model's network where it is, trained or not.

    On a CPU by its graph too, if it may have one and is faster so.
    """
    if model.target.mean.device.type == "cpu" and with_graph:
        return export_model(model).least_ms
    side = model.config.preprocess.canvas
    pixels = torch.zeros(1, 3, side, side, device=model.target.mean.device)
    share = share_cores("cpu", usable_cores())
    with _threads(min(share.threads, torch.get_num_threads())):
        return statistics.median(_ms(model, pixels) for _ in range(_ROUNDS))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ms(network: Network, pixels: torch.Tensor) -> float:
    started = time.perf_counter()
    network(pixels, [1]).values.cpu()  # waits for a GPU
    return 1000 * (time.perf_counter() - started)
