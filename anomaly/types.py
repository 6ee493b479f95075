"""Nouns that two or more modules share."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly.errors import ScoreNotFinite

FloatArray = NDArray[np.float32]
Verdict = Literal["OK", "WARN", "NG"]


def verdict_of(score: float, threshold: float, warn_threshold: float | None) -> Verdict:
    """NG above the threshold, WARN above the lower one for doubtful parts, otherwise OK.

    Raises `ScoreNotFinite`: NaN lies above no threshold, and would be OK.
    """
    check_finite(score=score, threshold=threshold, warn_threshold=warn_threshold)
    if score > threshold:
        return "NG"
    return "WARN" if warn_threshold is not None and score > warn_threshold else "OK"


def check_finite(**values: float | None) -> None:
    """Raise `ScoreNotFinite` where one of these is NaN or infinite."""
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise ScoreNotFinite(
                f"the {name} is {value}, not a finite number, so nothing can be said of the part; "
                "look at it by hand, and check the model with 'maskline doctor --models MODEL'"
            )


@dataclass(frozen=True, slots=True)
class RgbImage:
    """A decoded image: RGB, uint8 in [0, 255] or uint16 in [0, 65535], shape (H, W, 3).

    `sent` is the caller's (H, W) where the decoder made the image smaller.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    sent: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the decoded pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @property
    def source_size(self) -> tuple[int, int]:
        """(H, W) of the caller's image: regions, masks and pictures are in its pixels."""
        return self.sent or self.size


@dataclass(frozen=True, slots=True)
class Grid:
    """How a canvas is cut into patches: `rows` × `cols` patches of `patch` × `patch` pixels.

    A refined grid's patches are cells; `cells` of them lie along the side of a patch of the model.
    """

    rows: int
    cols: int
    patch: int
    cells: int = 1

    @property
    def length(self) -> int:
        """Number of patches, L."""
        return self.rows * self.cols

    def refined(self, cells: int) -> "Grid":
        """Return the grid that cuts every patch into `cells` × `cells` cells."""
        return Grid(self.rows * cells, self.cols * cells, self.patch // cells, self.cells * cells)


@dataclass(frozen=True, slots=True)
class Block:
    """A run of a token's channels from one source: `channels` for each of `cells`² cells.

    A source finer than the patch grid keeps its detail by cells: a patch of 2 × 2 cells has one
    token, and the block holds four times the channels.
    """

    name: str
    channels: int
    cells: int = 1

    @property
    def width(self) -> int:
        """Number of token channels."""
        return self.channels * self.cells**2


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies on the model's canvas, so that results can be mapped back.

    `source` is the caller's (H, W); `box` is (top, left, bottom, right) in canvas pixels. The
    canvas is a square, or as long as the image where the model cuts it in bands (`anomaly.bands`).
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    box: tuple[int, int, int, int]

    @classmethod
    def filling(cls, side: int) -> "Placement":
        """Return the placement of an image that fills its canvas."""
        return cls((side, side), (side, side), (0, 0, side, side))

    @property
    def scale(self) -> tuple[float, float]:
        """Caller's pixels per canvas pixel, (y, x)."""
        top, left, bottom, right = self.box
        return self.source[0] / (bottom - top), self.source[1] / (right - left)

    def to_source(self, y: float, x: float) -> tuple[float, float]:
        """Map a canvas coordinate (pixel edges, not centres) to the caller's, inside the image."""
        scale_y, scale_x = self.scale
        source_y = min(max((y - self.box[0]) * scale_y, 0.0), float(self.source[0]))
        source_x = min(max((x - self.box[1]) * scale_x, 0.0), float(self.source[1]))
        return source_y, source_x


@dataclass(frozen=True, slots=True)
class Region:
    """One connected anomalous area, in the caller's pixels.

    `bbox` is (x, y, width, height); `peak` and `centroid` are points (x, y); `area_px` counts the
    caller's pixels; `peak_score` is the calibrated map's value at the peak. `kind` is what labelled
    examples call it, `unknown` where it is like none of them, and `kind_p` the share of that kind's
    examples that are no more like it (`anomaly.kinds`); None where nothing is labelled.
    """

    bbox: tuple[int, int, int, int]
    area_px: int
    peak: tuple[int, int]
    centroid: tuple[float, float]
    peak_score: float
    kind: str | None = None
    kind_p: float | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """What one inspection found.

    `pred_score` is raw and unclamped, comparable with `threshold`; higher is more anomalous.
    `score_std` is its standard deviation over the repeated masks (0 with a single repeat).
    `anomaly_map` is the calibrated map on the model's canvas, (H, W) float32, and
    `patch_scores` the same on the map's own grid; `map_threshold` is the map value that separates.
    Of a part that is not OK, or whose map passes its threshold somewhere, `detail` says how likely
    each pixel of the canvas is altered, (H, W) uint8, 255 being sure, and `anomaly_map` is gathered
    on those pixels; None where nobody looked closer, or the model cannot.
    `errors` (E, L) is the raw evidence behind it all, from which another calibration could judge;
    `embedding` is how far the image as a whole lies from the remembered normal ones. `differences`
    (L, C) is what each token is beyond its prediction, on whatever device made it; None where
    nobody asks. `excused` is the verdict of a part that was rejected only for what its line lets
    pass.
    """

    pred_score: float
    score_std: float
    p_value: float
    patch_scores: FloatArray
    anomaly_map: FloatArray
    placement: Placement
    threshold: float = 0.0
    map_threshold: float = 0.0
    is_anomalous: bool = False
    regions: tuple[Region, ...] = ()
    errors: NDArray[np.float16] | None = None
    warn_threshold: float | None = None
    embedding: float | None = None
    detail: NDArray[np.uint8] | None = None
    differences: torch.Tensor | None = None
    excused: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """What is to be done with the part; see `verdict_of`, unless its kind excuses it."""
        if self.excused is not None:
            return self.excused
        return verdict_of(self.pred_score, self.threshold, self.warn_threshold)
