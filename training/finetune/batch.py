"""What a task's loss sees of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Canvases (B, 3, S, S) in [0, 1] on the device, and what is true of each.

    `truths` are as `TrainingTask.truth` gave them, for the canvas before it was varied; `moves` (B,
    2, 3) are the affine maps by which it was then moved, from a place of the new canvas to one of
    the old, both in [-1, 1] (torch's `affine_grid`, `align_corners=False`): boxes and masks are to
    be moved along (`training.finetune.variation.moved`). Light was varied besides.
    """

    pixels: torch.Tensor
    truths: Sequence[Any]
    moves: torch.Tensor
    generator: np.random.Generator  # of this step: whatever a loss draws
