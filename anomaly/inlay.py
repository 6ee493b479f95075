"""A part's picture with pieces of normal parts put in: what it would look like as expected.

A piece is taken from where it fits its surroundings best as a picture: shifted and turned a little,
its brightness made that of what lies around it, its edges blended. Pixels outside the region stay
as they are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.expectation import Mask, Origin, Piece
from anomaly.types import FloatArray, Grid, Placement

Picture = NDArray[np.uint8]
_ALIGNED_PX = 160  # longer side of the window in which pieces are aligned
_AROUND = 2  # patches around a piece that are looked at
_TURN = 0.12  # radians; a piece is turned no further
_FEATHER = 0.5  # of a cell, over which the region's edge is blended
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture (h, w, 3) and how its patches lie on it; `grid` is spread as the picture is."""

    picture: Picture
    placement: Placement
    grid: Grid

    @property
    def scale(self) -> tuple[float, float]:
        """Picture pixels per canvas pixel, (y, x)."""
        top, left, bottom, right = self.placement.box
        return self.picture.shape[0] / (bottom - top), self.picture.shape[1] / (right - left)

    def pixels_of(self, cells: Mask) -> Mask:
        """Say which pixels of the picture lie in cells (rows, columns) of its canvas."""
        height, width = self.placement.canvas
        canvas = cv2.resize(
            cells.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        top, left, bottom, right = self.placement.box
        size = self.picture.shape[1::-1]
        inside = np.ascontiguousarray(canvas[top:bottom, left:right])
        pixels = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
        return np.asarray(pixels, np.bool_)


@dataclass(frozen=True, slots=True)
class Inlay:
    """The picture as expected, and the origin of each piece that it was made of."""

    picture: Picture
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """A window of the picture, (h, w, 3) `pixels`; `around` are those outside of the region."""

    scene: Scene
    window: tuple[slice, slice]
    pixels: FloatArray
    around: Mask


@dataclass(frozen=True, slots=True)
class _Fit:
    pixels: FloatArray  # (h, w, 3) of the window
    misfit: float


def inlay(
    scene: Scene, cells: Mask, pieces: Sequence[Piece], normal: Callable[[int], Scene]
) -> Inlay:
    """Put pieces into the region of these cells; `normal` gives a normal part's scene by number.

    The normal parts' pictures have the part's scale, so that a patch is as large in both.
    """
    region = scene.pixels_of(cells)
    total = np.zeros(scene.picture.shape, np.float32)
    weight = np.zeros(scene.picture.shape[:2], np.float32)
    origins = []
    for piece in pieces:
        shape = scene.pixels_of(piece.patches) & region
        if not shape.any():
            continue
        window = _window(shape, scene)
        pixels = scene.picture[window].astype(np.float32)
        view = _View(scene, window, pixels, ~region[window])
        fits = [_fit(view, origin, normal(origin.normal)) for origin in piece.origins]
        best = min(range(len(fits)), key=lambda i: fits[i].misfit)
        origins.append(piece.origins[best])
        reach = _odd(scene.grid.patch * max(scene.scale) / 2)
        share = cv2.blur(shape[window].astype(np.float32), (reach, reach)) + 1e-6
        total[window] += share[..., None] * fits[best].pixels
        weight[window] += share
    opacity = _feathered(region, scene)[..., None]
    put_in = total / np.maximum(weight, 1e-12)[..., None]
    blended = scene.picture * (1 - opacity) + put_in * opacity
    picture = np.where(region[..., None], blended.round().clip(0, 255), scene.picture)
    return Inlay(picture.astype(np.uint8), tuple(origins))


def _window(shape: Mask, scene: Scene) -> tuple[slice, slice]:
    """Span of a piece's pixels and some patches around them."""
    spans = []
    for axis, scale in enumerate(scene.scale):
        places = np.nonzero(shape.any(axis=1 - axis))[0]
        margin = math.ceil(_AROUND * scene.grid.patch * scale)
        last = min(shape.shape[axis], int(places[-1]) + 1 + margin)
        spans.append(slice(max(0, int(places[0]) - margin), last))
    return spans[0], spans[1]


def _fit(view: _View, origin: Origin, normal: Scene) -> _Fit:
    """Lay a normal part under a view of the picture so that it fits outside of the region."""
    part, scene = view.pixels, view.scene
    reach = math.ceil(scene.grid.patch * max(scene.scale) / 2)
    down, right = (
        (scene.placement.box[axis] - normal.placement.box[axis]) * scene.scale[axis]
        + origin.shift[axis] * scene.grid.patch * scene.scale[axis]
        + view.window[axis].start
        - reach
        for axis in (0, 1)
    )
    place = np.array([[1, 0, right], [0, 1, down]], np.float32)
    size = part.shape[1] + 2 * reach, part.shape[0] + 2 * reach
    wide = _warped(normal.picture, place, size)
    if not view.around.any():
        return _Fit(wide[reach:-reach, reach:-reach], 0.0)
    to_part = _alignment(wide, part, view.around, reach)
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
    pixels = cv2.warpAffine(wide, to_part, part.shape[1::-1], flags=flags, borderMode=border)
    difference = part[view.around] - pixels[view.around]
    brightness = np.median(difference, axis=0)
    misfit = float(np.abs(difference - brightness).mean())
    return _Fit(np.asarray(pixels + brightness, np.float32), misfit)


def _warped(picture: Picture, place: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Cut out of a picture what `place` maps a window (w, h) to."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(picture, place, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.float32)


def _alignment(wide: FloatArray, part: FloatArray, around: Mask, reach: int) -> FloatArray:
    """Return the (2, 3) turn and shift from a normal part's cut to the part's, as found around."""
    factor = min(1.0, _ALIGNED_PX / max(part.shape[:2]))
    small_wide, small_part = (_grey(pixels, factor) for pixels in (wide, part))
    size = small_part.shape[::-1]
    share = cv2.resize(around.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    mask = np.asarray(share > 0.99, np.float32)
    y, x = _best_shift(small_wide, small_part, mask) or (reach * factor, reach * factor)
    warp = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
    turned = _turned(small_wide, small_part, mask, warp)
    turned[:, 2] /= factor
    return turned


def _best_shift(wide: FloatArray, part: FloatArray, mask: FloatArray) -> tuple[float, float] | None:
    if not mask.any():
        return None
    likeness = cv2.matchTemplate(wide, part, cv2.TM_CCOEFF_NORMED, mask=mask)
    if not np.isfinite(likeness).any():
        return None
    likeness = np.where(np.isfinite(likeness), likeness, -np.inf)
    y, x = np.unravel_index(int(likeness.argmax()), likeness.shape)
    return float(y), float(x)


def _turned(wide: FloatArray, part: FloatArray, mask: FloatArray, warp: FloatArray) -> FloatArray:
    """Refine a shift to a turn and shift; where that does not converge, it stays a shift."""
    try:
        _, turned = cv2.findTransformECC(
            wide, part, warp.copy(), cv2.MOTION_EUCLIDEAN, _STOP, mask.astype(np.uint8), 5
        )
    except cv2.error:
        return warp
    moved = np.abs(turned[:, 2] - warp[:, 2]).max()
    is_near = abs(float(turned[1, 0])) < _TURN and moved < _ALIGNED_PX / 4
    return np.asarray(turned if is_near else warp, np.float32)


def _grey(pixels: FloatArray, factor: float) -> FloatArray:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)


def _feathered(region: Mask, scene: Scene) -> FloatArray:
    """How much of the pieces is seen, (h, w) in [0, 1]: 0 at the region's edge, rising inwards."""
    ramp = max(1.0, _FEATHER * scene.grid.patch / scene.grid.cells * max(scene.scale))
    padded = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.asarray(np.clip(depth / ramp, 0, 1), np.float32)


def _odd(length: float) -> int:
    return 2 * max(1, round(length / 2)) + 1
