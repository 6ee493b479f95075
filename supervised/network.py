"""What all networks of labels share: an encoder, and answers about a batch of canvases."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from anomaly.types import Placement
from supervised.encoder import Encoder
from supervised.types import Answer


class SupervisedNetwork(nn.Module):
    """An encoder under a head; each task has its own.

    `forward` maps (B, 3, S, S) canvases in [0, 1] to the head's raw tensors: what a loss is
    computed from, and what an exported graph gives.
    """

    def __init__(self, encoder: Encoder, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = classes

    def answers(self, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Answer]:
        """Say what is on each canvas, in the caller's pixels; in evaluation mode."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: FBT001  (timm's)
        """Say which parameters lie in which layer, as timm's layer decay wants to know."""
        return {
            "stem": r"^encoder\.(?:embed|position|class_token|target)",
            # What matches nothing, the final norm and the head, is the last layer.
            "blocks": [(r"^encoder\.blocks\.(\d+)", None)],
        }
