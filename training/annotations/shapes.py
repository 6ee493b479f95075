"""What an annotation covers: `Outlines` (rings of points) or `Runs` (pixels, without loss).

Coordinates are continuous: pixel (x, y) covers [x, x + 1) × [y, y + 1), and belongs to a ring whose
inside holds its centre (even-odd rule). So the outline that `outline` draws along the edges of
pixels gives the same pixels again. Other programs fill a ring up to half a pixel further out or
in: between two of them a polygon is only as exact as that, and `Runs` is the form without loss.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supervised.masks import run_lengths

Box = tuple[float, float, float, float]  # x, y, width, height in pixels
Ring = NDArray[np.float64]  # (N, 2) of (x, y)
Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """One or more rings, whose insides together are the shape."""

    rings: tuple[Ring, ...]

    def pixels(self, size: tuple[int, int]) -> Mask:
        """Return the pixels of an image of (H, W) whose centres lie inside."""
        covered = np.zeros(size, bool)
        for ring in self.rings:
            _fill(ring, covered)
        return covered

    def box(self) -> Box:
        """Return the box around all points."""
        points = np.concatenate(self.rings)
        low, high = points.min(0), points.max(0)
        return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """A mask as COCO counts it: lengths of runs down the columns, the first of them unmarked."""

    size: tuple[int, int]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask) -> "Runs":
        """Encode a mask (H, W)."""
        return cls((mask.shape[0], mask.shape[1]), run_lengths(mask.ravel(order="F")))

    def pixels(self, size: tuple[int, int]) -> Mask:
        """Decode to (H, W), which must be the size that it was made for."""
        if size != self.size:
            raise ValueError(f"want the size {self.size}, not {size}")
        return unrolled(self.counts).reshape(size, order="F")

    def box(self) -> Box:
        """Return the box around the marked pixels; empty at 0 where there are none."""
        return box_of(self.pixels(self.size))


Shape = Outlines | Runs


def unrolled(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the flags that `run_lengths` counted."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def box_of(mask: Mask) -> Box:
    """Return the box around a mask's marked pixels; empty at 0 where there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = float(columns[0]), float(rows[0])
    return x, y, float(columns[-1] + 1) - x, float(rows[-1] + 1) - y


def rectangle(box: Box) -> Outlines:
    """Return a box as a ring of its four corners."""
    x, y, width, height = box
    return Outlines((np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]),))


def outline(mask: Mask) -> Ring:
    """Return one ring around all of a mask, along the edges of its pixels; (0, 2) if it is empty.

    Parts and holes are joined by lines that lead there and back, which enclose nothing.
    """
    loops = sorted(_loops(mask), key=len, reverse=True)
    if not loops:
        return np.zeros((0, 2))
    path = [*loops[0], loops[0][0]] if len(loops) > 1 else loops[0]
    for loop in loops[1:]:
        path += [*loop, loop[0], path[0]]
    return np.array(path[:-1] if len(loops) > 1 else path, float)


def _loops(mask: Mask) -> list[list[tuple[int, int]]]:
    """Follow the edges of pixels, the marked side to the right, to closed loops of corners."""
    onward: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    for (dy, dx), (start, end) in _EDGES.items():
        beside = padded[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
        for y, x in np.argwhere(inner & ~beside).tolist():
            onward[x + start[0], y + start[1]].append((x + end[0], y + end[1]))
    loops = []
    while onward:
        first = next(iter(onward))
        loops.append(_corners(_loop(first, onward)))
    return loops


_EDGES = {  # where the neighbour is unmarked: the edge's start and end
    (-1, 0): ((0, 0), (1, 0)),
    (0, 1): ((1, 0), (1, 1)),
    (1, 0): ((1, 1), (0, 1)),
    (0, -1): ((0, 1), (0, 0)),
}


def _loop(
    first: tuple[int, int], onward: dict[tuple[int, int], list[tuple[int, int]]]
) -> list[tuple[int, int]]:
    path, point = [], first
    while point in onward:
        path.append(point)
        ways = onward[point]
        following = ways.pop()
        if not ways:
            del onward[point]
        point = following
    return path


def _corners(path: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out the points on straight lines."""
    points = np.array(path)
    turned = (np.roll(points, -1, 0) - points != points - np.roll(points, 1, 0)).any(1)
    return [path[i] for i in np.flatnonzero(turned).tolist()]


def _fill(ring: Ring, covered: Mask) -> None:
    """Mark the pixels whose centres lie within a ring, row by row."""
    height, width = covered.shape
    left = int(np.clip(np.floor(ring[:, 0].min()), 0, width))
    right = int(np.clip(np.ceil(ring[:, 0].max()), left, width))
    top = int(np.clip(np.floor(ring[:, 1].min()), 0, height))
    bottom = int(np.clip(np.ceil(ring[:, 1].max()), top, height))
    start, end = ring, np.roll(ring, -1, 0)
    # From top to bottom: a line that leads there and back crosses a row at the very same point.
    upwards = (start[:, 1] > end[:, 1])[:, None]
    start, end = np.where(upwards, end, start), np.where(upwards, start, end)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    # An edge crosses the rows whose centres lie in [low, high).
    from_row = np.clip(np.ceil(low - 0.5), top, bottom).astype(np.int64)
    to_row = np.clip(np.ceil(high - 0.5), top, bottom).astype(np.int64)
    lengths = to_row - from_row
    edge = np.repeat(np.arange(len(ring)), lengths)
    offsets = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = from_row[edge] + offsets
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.ceil(crossed - 0.5), left, right).astype(np.int64)
    toggles = np.zeros((bottom - top, right - left + 1), np.int32)
    np.add.at(toggles, (rows - top, columns - left), 1)
    covered[top:bottom, left:right] |= np.cumsum(toggles, 1)[:, :-1] % 2 == 1
