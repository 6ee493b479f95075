"""Where a request is, and how long each stage behind it took."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["read", "decode", "queue", "inference", "encode"]


@dataclass(slots=True)
class Timings:
    """The stage that one image is in, and the `seconds` of those behind it by name."""

    stage: Stage = "read"
    seconds: dict[str, float] = field(default_factory=dict)


def first_stage(timings: Sequence[Timings]) -> Stage:
    """Return the stage of the first image whose turn is not over; images are taken in order."""
    return next((image.stage for image in timings if "inference" not in image.seconds), "encode")
