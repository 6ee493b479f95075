"""What models of labels answer; nouns that two or more modules share."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomaly.types import Placement

TaskName = Literal["classification", "detection", "segmentation"]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How likely the image as a whole is of a kind; probabilities of an answer sum to 1."""

    kind: str
    probability: float


@dataclass(frozen=True, slots=True)
class Box:
    """One object: `bbox` is (x, y, width, height) in the caller's pixels."""

    bbox: tuple[int, int, int, int]
    kind: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of one image; each task fills its own part.

    `classes` are ordered, the likeliest first. `mask` (H, W) is on the canvas: 0 is background, i
    is the kind i - 1 of the model's `classes`; `placement` leads back to the caller's pixels.
    """

    placement: Placement
    classes: tuple[ClassScore, ...] = ()
    boxes: tuple[Box, ...] = ()
    mask: NDArray[np.uint8] | None = None
