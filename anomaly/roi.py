"""Which part of an image counts: polygons or a mask image, in shares of the image's sides.

A region of interest belongs to a calibration: what does not count helps neither the threshold nor
the score, so another region needs another calibration. It knows nothing of models: `mask` brings it
onto whatever grid a map has.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anomaly.bands import folded, spread_grid
from anomaly.errors import ImageError, RoiInvalid
from anomaly.image import decode_mask
from anomaly.types import Grid, Placement

SIDE = 512  # a region is kept as a square raster of this side, whatever the image's aspect
_COVERED = 0.5  # share of a cell that must lie inside for it to count
_MOST_POINTS = 10_000
_TRACE = 1e-3  # of the image; drawing the same region twice may differ by its edge

Polygon = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Roi:
    """`inside` is (SIDE, SIDE) bool over the whole image: what counts is True."""

    inside: NDArray[np.bool_]

    @classmethod
    def of_mask(cls, mask: NDArray[np.bool_]) -> "Roi":
        """Make one of a mask (H, W) in the size of the images, or any size of their aspect."""
        small = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return cls._checked(small >= _COVERED)

    @classmethod
    def of_polygons(
        cls,
        include: Sequence[Polygon],
        ignore: Sequence[Polygon] = (),
        size: tuple[float, float] = (1.0, 1.0),
    ) -> "Roi":
        """Make one of polygons of points (x, y) in an image of `size` (width, height).

        Without `include`, the whole image counts but for what is to be ignored.
        """
        canvas = np.full((SIDE, SIDE), 0 if include else 1, np.uint8)
        scale = SIDE / np.array(size, np.float64)
        for polygons, value in ((include, 1), (ignore, 0)):
            for polygon in polygons:
                corners = np.round(np.array(polygon, np.float64) * scale - 0.5).astype(np.int32)
                cv2.fillPoly(canvas, [corners], value)
        return cls._checked(canvas.astype(bool))

    @classmethod
    def _checked(cls, inside: NDArray[np.bool_]) -> "Roi":
        if inside.mean() < 1e-3:
            raise RoiInvalid("less than a thousandth of the image counts; mark more of it")
        return cls(inside)

    @property
    def share(self) -> float:
        """Share of the image that counts."""
        return float(self.inside.mean())

    def reaches_beyond(self, other: "Roi") -> bool:
        """Whether more than a trace of what counts here does not count there."""
        return bool((self.inside & ~other.inside).mean() > _TRACE)

    def mask(self, placement: Placement, grid: Grid) -> torch.Tensor:
        """Which cells of a map count, (L,) bool, for an image placed so; at least one does."""
        return _counts(self, placement.box, placement.canvas, grid)


@functools.lru_cache(maxsize=256)
def _counts(
    roi: Roi, box: tuple[int, int, int, int], canvas: tuple[int, int], grid: Grid
) -> torch.Tensor:
    top, left, bottom, right = box
    inside = np.zeros(canvas, np.float32)  # what letterboxing adds does not count
    size = (right - left, bottom - top)
    inside[top:bottom, left:right] = cv2.resize(
        roi.inside.astype(np.float32), size, interpolation=cv2.INTER_AREA
    )
    spread = spread_grid(grid, canvas)
    cells = folded(cv2.resize(inside, (spread.cols, spread.rows), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(cells >= min(_COVERED, float(cells.max()))).flatten()


def read_roi(data: bytes) -> Roi:
    """Read a region: JSON of polygons, or a mask image in which what counts is not black.

    The JSON is {"include": [[[x, y], ...], ...], "ignore": [...], "size": [width, height]}; without
    `size` the points are shares of the image's sides. Raises `RoiInvalid`.
    """
    if data.lstrip()[:1] == b"{":
        return _of_json(data)
    try:
        mask = decode_mask(data)
    except ImageError as error:
        raise RoiInvalid(f"neither JSON of polygons nor a mask image: {error}") from error
    return Roi.of_mask(mask)


def _of_json(data: bytes) -> Roi:
    try:
        document = json.loads(data)
        if unknown := document.keys() - {"include", "ignore", "size"}:
            raise RoiInvalid(f"unknown keys {sorted(unknown)}; want include, ignore, size")
        width, height = document.get("size", (1.0, 1.0))
        include, ignore = (
            _polygons(document.get(k, ()), width, height) for k in ("include", "ignore")
        )
    except (ValueError, TypeError) as error:
        raise RoiInvalid(
            f"the polygons cannot be read ({error}); want lists of points [x, y]"
        ) from error
    if not include and not ignore:
        raise RoiInvalid("there is no polygon in 'include' or 'ignore'")
    return Roi.of_polygons(include, ignore, (width, height))


def _polygons(drawn: Sequence[Polygon], width: float, height: float) -> list[Polygon]:
    polygons = [[(float(x), float(y)) for x, y in polygon] for polygon in drawn]
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise RoiInvalid(f"size is {width} × {height}; want the image's width and height")
    if any(len(polygon) < 3 for polygon in polygons):
        raise RoiInvalid("a polygon wants three points or more")
    if sum(map(len, polygons)) > _MOST_POINTS:
        raise RoiInvalid(f"more than {_MOST_POINTS} points; draw it as a mask image")
    points = np.array([point for polygon in polygons for point in polygon] or [(0.0, 0.0)])
    if not bool(((points >= 0) & (points <= (width, height))).all()):
        raise RoiInvalid(f"a point lies outside the image of {width:g} × {height:g}")
    return list(polygons)
