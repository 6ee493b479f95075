"""What all readers of annotations share: files, numbers and places, checked as they come.

Everything here raises `DataError` that names the file, the item in it, and what to do.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.annotations.labelled import Instance
from training.annotations.shapes import Box, Ring, Runs, Shape, unrolled
from training.errors import DataError
from training.labels import label_of
from training.samples import NORMAL, printable

_LARGEST_BYTES = 1 << 30  # of a file of annotations
_LONGEST_KIND = 65_536
_MOST_POINTS = 1_000_000
_OUTSIDE_PX = 1.0  # what tools are seen to overshoot an edge by; it is cut off
_THINNEST_PX = 1e-3  # coordinates are written to a tenth of it
_LONGEST_TEXT = 80


def read_text(path: Path) -> str:
    """Read a file of annotations as UTF-8."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(
                f"{printable(path)} is larger than {_LARGEST_BYTES} bytes; split it into several"
            )
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{printable(path)} is not UTF-8 (byte {error.start}); export it again"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{printable(path)} is not JSON ({error}); it is damaged or cut short: export it again"
        ) from error


def brief(value: object) -> str:
    """Return the beginning of a value for an error."""
    text = printable(ascii(value) if isinstance(value, str) else str(value))
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is {brief(value)}; want an object {{…}}")
    return value


def sequence(value: object, where: str) -> Sequence[Any]:
    """Return a JSON array."""
    if not isinstance(value, list):
        raise DataError(f"{where} is {brief(value)}; want an array […]")
    return value


def number(value: object, where: str) -> float:
    """Return a finite number, also where it is written as text."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        result = float(value)
    except (ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise DataError(f"{where} is {brief(value)}; want a finite number")
    return result


def whole_number(value: object, where: str) -> int:
    """Return an integer that is not negative, also where it is written as text."""
    result = number(value, where)
    if result < 0 or result != int(result):
        raise DataError(f"{where} is {brief(value)}; want a whole number from 0 on")
    return int(result)


def kind_of(value: object, where: str) -> str:
    """Return the name of a kind: `good` for a good part, any other as it is written."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has the kind {brief(value)}; want the name of a kind of defect")
    if len(value) > _LONGEST_KIND or printable(value) != value or "\0" in value:
        raise DataError(
            f"{where} has the kind {brief(value)}, which is no name: want Unicode of at most "
            f"{_LONGEST_KIND} characters"
        )
    return label_of(value, where)


def size_of(height: object, width: object, where: str) -> tuple[int, int]:
    """Return a size (H, W) as it is written."""
    return whole_number(height, f"{where}: the height"), whole_number(width, f"{where}: the width")


def box_of_numbers(values: Sequence[object], size: tuple[int, int], where: str) -> Box:
    """Return a box (x, y, w, h) that lies within an image of (H, W)."""
    if len(values) != 4:
        raise DataError(f"{where} has a box of {len(values)} numbers; want x, y, width, height")
    x, y, width, height = (number(value, f"{where}: the box") for value in values)
    if width <= 0 or height <= 0:
        raise DataError(
            f"{where} has a box of {width:g}×{height:g} px; want a positive width and height: "
            "correct or remove it"
        )
    left, top = _inside(x, size[1], where), _inside(y, size[0], where)
    right, bottom = _inside(x + width, size[1], where), _inside(y + height, size[0], where)
    if right <= left or bottom <= top:
        raise DataError(f"{where} has a box outside of its image; correct or remove it")
    unmoved = (left, top, right, bottom) == (x, y, x + width, y + height)
    return (x, y, width, height) if unmoved else (left, top, right - left, bottom - top)


def _inside(value: float, side: int, where: str) -> float:
    if not -_OUTSIDE_PX <= value <= side + _OUTSIDE_PX:
        raise DataError(
            f"{where} reaches to {value:g}, outside of its image, whose side is {side} px; correct "
            "it, or check that it belongs to this image"
        )
    return min(max(value, 0.0), float(side))


def ring_of(points: Sequence[object], size: tuple[int, int], where: str) -> Ring:
    """Return a ring from points [[x, y], …] within an image of (H, W)."""
    if not 3 <= len(points) <= _MOST_POINTS:
        raise DataError(
            f"{where} has a polygon of {len(points)} points; want 3 to {_MOST_POINTS}: correct or "
            "remove it"
        )
    ring = np.empty((len(points), 2))
    for i, point in enumerate(points):
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise DataError(f"{where}, point {i} is {brief(point)}; want x, y")
        for axis, side in ((0, size[1]), (1, size[0])):
            value = number(point[axis], f"{where}, point {i}")
            ring[i, axis] = _inside(value, side, f"{where}, point {i}")
    if (np.ptp(ring, 0) < _THINNEST_PX).any():
        raise DataError(f"{where} has a polygon that encloses nothing; correct or remove it")
    return ring


def ring_of_flat(values: Sequence[object], size: tuple[int, int], where: str) -> Ring:
    """Return a ring from numbers x, y, x, y …."""
    if len(values) % 2:
        raise DataError(f"{where} has a polygon of {len(values)} numbers; want pairs of x, y")
    pairs = list(zip(values[::2], values[1::2], strict=True))
    return ring_of(pairs, size, where)


def turned(box: Box, degrees: float, pivot: tuple[float, float]) -> list[list[float]]:
    """Return the corners of a box turned clockwise, as the image shows it, about a point."""
    x, y, width, height = box
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) - pivot
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result: list[list[float]] = (corners @ np.array([[cos, sin], [-sin, cos]]) + pivot).tolist()
    return result


def with_shape(kind: str, shape: Shape, where: str) -> Instance:
    """Make an instance of a shape, which must mark something."""
    if isinstance(shape, Runs) and not shape.counts[1::2].any():
        raise DataError(f"{where} has a mask that marks nothing; remove it")
    return Instance.of(kind, shape)


def runs_down_columns(counts: Sequence[object], size: tuple[int, int], where: str) -> Runs:
    """Return a mask from COCO's counts, which must cover the image exactly."""
    return Runs(size, checked_counts(counts, size[0] * size[1], where))


def checked_counts(counts: Sequence[object], total: int, where: str) -> np.ndarray:
    """Return run lengths that must sum up to `total`."""
    if len(counts) > 2 * total + 2:
        raise DataError(f"{where} has {len(counts)} runs for {total} pixels; export it again")
    lengths = [whole_number(count, f"{where}: a run's length") for count in counts]
    if sum(lengths) != total:
        raise DataError(
            f"{where} has runs of {brief(sum(lengths))} pixels together, but its image or box has "
            f"{total}; it is cut short, or belongs to another image"
        )
    return np.array(lengths, np.int64)


def pixels_of_rows(counts: Sequence[object], size: tuple[int, int], where: str) -> np.ndarray:
    """Return a mask (H, W) from run lengths along the rows."""
    return unrolled(checked_counts(counts, size[0] * size[1], where)).reshape(size)


@dataclass(slots=True)
class Notes:
    """What is to be said of a set, each once with how often it occurred."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, times: int = 1) -> None:
        """Count what was seen."""
        self.counts[text] += times

    def lines(self) -> tuple[str, ...]:
        """Return a line for each."""
        return tuple(f"{count} {text}" for text, count in self.counts.items() if count)


def without_good(instances: Iterable[Instance], notes: Notes) -> tuple[Instance, ...]:
    """Leave out regions that are called good: they mark no defect."""
    listed = tuple(instances)
    defects = tuple(instance for instance in listed if instance.kind != NORMAL)
    notes.add("regions called good mark no defect and are left out", len(listed) - len(defects))
    return defects


def defects_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds that are defects, each once."""
    return tuple(dict.fromkeys(kind for kind in kinds if kind != NORMAL))
