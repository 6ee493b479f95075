"""What a fitted peer gives, and what peers share: canvases, weights, normalisation.

anomalib is an optional extra (`pip install -e '.[bench]'`). Its networks are built without
downloads and given the weights that Maskline uses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anomaly.preprocess import preprocess
from anomaly.targets import load_backbone
from training.config import TrainConfig
from training.data import Sample
from training.decoding import STRICT

Score = Callable[[torch.Tensor], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A fitted peer: canvases (B, 3, S, S) in [0, 1] to scores (B,) and canvas maps (B, S, S).

    `model` is anomalib's, where it is one of its.
    """

    score: Score
    megabytes: float
    model: Any = None


Fit = Callable[[Sequence[Sample], TrainConfig, int], Peer]


def canvases(samples: Sequence[Sample], config: TrainConfig) -> Iterator[torch.Tensor]:
    """Read samples in batches of canvases, (B, 3, S, S) in [0, 1]."""
    for batch in STRICT.on(config.model.preprocess.canvas).batches(samples):
        yield preprocess([image for _, image in batch], config.model.preprocess)[0]


def of_anomalib(model: Any) -> Peer:
    """Make a peer of anomalib's fitted model that takes normalised canvases."""

    def score(pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            output = model(normalised(pixels))
        return output.pred_score.flatten().numpy(), output.anomaly_map.squeeze(1).numpy()

    return Peer(score, megabytes(model), model)


def layer(stage: int) -> str:
    """Name timm's stage of an EfficientNet as anomalib wants it."""
    return f"blocks.{(0, 1, 2, 4, 6)[stage]}"


def give_weights(extractor: Any, config: TrainConfig) -> None:
    """Copy Maskline's weights into anomalib's extractor; everything it needs must be there."""
    ours = load_backbone(config.model.target)
    state = {name.removeprefix("model."): value for name, value in ours.state_dict().items()}
    missing = extractor.feature_extractor.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise RuntimeError(f"anomalib's backbone lacks {missing[:3]}")
    extractor.eval()


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Scale pixels in [0, 1] to what the bundled weights want."""
    return (pixels - 0.5) / 0.5


def megabytes(module: torch.nn.Module) -> float:
    """Size of a module's parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6
