"""What a run costs and how well it uses its device: floating-point operations, rates, waiting.

Knows the shapes of a step, not its values: operations are counted on torch's meta device.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

from anomaly.mae import MaskedAutoencoder
from anomaly.model import AnomalyModel
from training.config import TrainConfig
from training.schedule import mean_mask_ratio

_BACKWARD = 2  # times the forward pass: a gradient for the input and one for the weights
_TIMES = 5
_SIDES = {"cuda": 8192}  # a smaller product does not fill a large GPU


@dataclass(slots=True)
class Meter:
    """A run's rates from its first step here; `peak`: operations a second of a process's device."""

    images_per_step: int
    flops_per_image: float
    peak: float
    images: int = 0
    waited_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as waiting for data."""
        started = time.monotonic()
        yield
        self.waited_s += time.monotonic() - started

    def stepped(self) -> None:
        """Count a step."""
        self.images += self.images_per_step

    def rates(self) -> dict[str, float]:
        """Return images a second, used share of the matrix rate, and waiting share of the time."""
        passed = max(time.monotonic() - self.began, 1e-9)
        speed = self.images / passed
        return {
            "images_per_s": round(speed, 1),
            "matrix_share": round(speed * self.flops_per_image / self.peak, 3),
            "data_wait": round(self.waited_s / passed, 3),
        }


def training_flops(model: AnomalyModel, config: TrainConfig, *, cached: bool) -> float:
    """Count the operations to train on an image: autoencoder both ways, backbone unless cached."""
    length, ratio = model.window.length, mean_mask_ratio(config.objective)
    hidden = min(max(round(length * ratio), 1), length - 1)
    queries = max(1, round(hidden * config.objective.decode_share))
    with torch.device("meta"):
        twin = MaskedAutoencoder(config.model.mae, model.window, model.target.token_dim)
        tokens = torch.empty(1, length, model.target.token_dim)
        visible = torch.zeros(1, length - hidden, dtype=torch.long)
        query_indices = torch.zeros(1, queries, dtype=torch.long)
    forward = _count(twin, tokens, visible, query_indices)
    if cached:
        return (1 + _BACKWARD) * forward
    return (1 + _BACKWARD) * forward + feature_flops(model, config)


def feature_flops(model: AnomalyModel, config: TrainConfig) -> float:
    """Count the operations of the frozen backbone on one canvas; 0 for a target of pixels."""
    twin = AnomalyModel.empty(config.model).target.to("meta")
    side = config.model.preprocess.canvas
    return _count(twin, torch.empty(1, 3, side, side, device="meta"))


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Measure operations a second of the product of two square matrices: the best of a few."""
    side = side or _SIDES.get(device.type, 1024)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_TIMES):
        finish(device)
        started = time.perf_counter()
        left @ right
        finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _count(module: torch.nn.Module, *arguments: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return float(counter.get_total_flops())
