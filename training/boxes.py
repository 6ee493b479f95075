"""Boxes of named defects: the noun, and where labelled ones are read.

`Boxes` is what people drew, what a network answers and what regions with kinds say, so that all can
be held against one truth. Labels lie in a text file for each image, `boxes/<kind>/<stem>.txt` with
lines `x1 y1 x2 y2 kind`, or in one COCO file at the set's root.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ShapeError
from training.errors import DataError
from training.samples import Sample, printable

ANY_KIND = "defect"
COCO_FILES = ("annotations.json", "_annotations.coco.json")


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes of one image.

    `corners` (N, 4) are x1, y1, x2, y2 in the image's own pixels, edges and not centres; `kinds`
    names each box's defect; `scores` (N,) in [0, 1] says how sure it is, 1 of a label.
    """

    corners: NDArray[np.float64]
    kinds: tuple[str, ...]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.kinds)
        if self.corners.shape != (count, 4) or self.scores.shape != (count,):
            raise ShapeError(
                f"boxes of {count} kinds: wanted ({count}, 4) corners and ({count},) scores, found "
                f"{self.corners.shape} and {self.scores.shape}"
            )

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def labelled(
        cls, corners: Sequence[Sequence[float]] = (), kinds: Sequence[str] = ()
    ) -> "Boxes":
        """Return boxes that somebody drew; none where nothing is said."""
        array = np.asarray(corners, np.float64).reshape(-1, 4)
        return cls(array, tuple(kinds), np.ones(len(kinds)))

    def without_kinds(self) -> "Boxes":
        """Return the same boxes, all of one kind: whether they lie right, whatever they are."""
        return replace(self, kinds=(ANY_KIND,) * len(self))


def labelled_boxes(sample: Sample) -> Boxes:
    """Read what is labelled in an image; none for a good part of which nothing is said.

    A COCO file may lie beside the image or up to two folders above. Raises `DataError` for an image
    with a defect whose boxes are nowhere, and for a box that is no box.
    """
    above = list(sample.path.parents)[:3]
    lines = above[-1] / "boxes" / sample.path.parent.name / f"{sample.path.stem}.txt"
    if lines.is_file():
        return _from_lines(lines)
    for path in (folder / name for folder in above for name in COCO_FILES):
        if path.is_file():
            return _from_coco(path, sample)
    if sample.is_normal:
        return Boxes.labelled()
    raise DataError(
        f"{printable(sample.path)} shows a defect, but no boxes of it; want "
        f"{printable(lines.relative_to(above[-1]))} with lines 'x1 y1 x2 y2 kind', or a COCO file "
        f"{COCO_FILES[0]} at the root of the set"
    )


def check_inside(boxes: Boxes, size: tuple[int, int], where: object) -> None:
    """Raise `DataError` where a box reaches out of an image of (H, W) by more than a pixel."""
    height, width = size
    limits = np.array([-1, -1, width + 1, height + 1])
    is_out = (boxes.corners[:, :2] < limits[:2]).any(1) | (boxes.corners[:, 2:] > limits[2:]).any(1)
    if is_out.any():
        raise DataError(
            f"the box {boxes.corners[is_out][0].tolist()} of {printable(where)} lies outside the "
            f"image of {width}×{height} px; are boxes and image of one size?"
        )


def _from_lines(path: Path) -> Boxes:
    corners: list[list[float]] = []
    kinds: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        *values, kind = line.split(maxsplit=4) if line.strip() else [""]
        if not kind:
            continue
        where = f"line {number} of {printable(path)}"
        if len(values) != 4:
            raise DataError(f"{where} is {line!r}; want 'x1 y1 x2 y2 kind'")
        corners.append(_checked(values, where))
        kinds.append(kind.strip())
    return Boxes.labelled(corners, kinds)


def _from_coco(path: Path, sample: Sample) -> Boxes:
    """Boxes of an image by its path below the set, or by its name where only one has it."""
    coco = _read_coco(path, path.stat().st_mtime_ns)
    below = sample.path.relative_to(path.parent).as_posix()
    rows = coco.get(below) if below in coco else coco.get(sample.path.name)
    if rows is None and sample.is_normal:
        return Boxes.labelled()
    if rows is None:
        raise DataError(f"{printable(path)} lists no image {printable(below)}; want its file_name")
    return Boxes.labelled([corners for corners, _ in rows], [kind for _, kind in rows])


@lru_cache(maxsize=4)
def _read_coco(path: Path, _changed: int) -> Mapping[str, list[tuple[list[float], str]]]:
    """Boxes with kinds by file name; read anew where the file changed."""
    try:
        coco: dict[str, Any] = json.loads(path.read_text("utf-8"))
        kinds = {category["id"]: str(category["name"]) for category in coco["categories"]}
        names = {image["id"]: str(image["file_name"]) for image in coco["images"]}
        rows: dict[str, list[tuple[list[float], str]]] = {name: [] for name in names.values()}
        for entry in coco["annotations"]:
            x, y, width, height = entry["bbox"]
            corners = _checked([x, y, x + width, y + height], f"a bbox of {printable(path)}")
            rows[names[entry["image_id"]]].append((corners, kinds[entry["category_id"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{printable(path)} is no COCO file of boxes: {error!r}; want images, annotations with "
            "bbox, and categories"
        ) from error
    return rows


def _checked(values: Sequence[Any], where: str) -> list[float]:
    try:
        x1, y1, x2, y2 = corners = [float(value) for value in values]
    except ValueError as error:
        raise DataError(f"{where} holds {values}; want four numbers") from error
    if not (np.isfinite(corners).all() and x1 < x2 and y1 < y2):
        raise DataError(f"{where} is a box without area, {corners}; want x1 < x2 and y1 < y2")
    return corners
