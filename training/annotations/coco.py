"""COCO's instances: https://cocodataset.org/#format-data.

Boxes (`bbox`), polygons and run lengths (`segmentation`, as numbers or as compressed text) are
read and written; a polygon stays a polygon, a mask becomes compressed run lengths. It has no place
for a kind that nobody located. Images without an annotation are taken for good parts, as COCO
means it. A file is a split (`instances_train.json`, or Roboflow's `train/_annotations.coco.json`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import Images, Opened
from training.annotations.reading import (
    Notes,
    box_of_numbers,
    brief,
    kind_of,
    mapping,
    read_json,
    ring_of_flat,
    runs_down_columns,
    sequence,
    size_of,
    with_shape,
    without_good,
)
from training.annotations.rle import coco_counts, coco_text
from training.annotations.shapes import Outlines, Shape
from training.annotations.writing import place_image, plain_name, rounded, write_json
from training.errors import DataError
from training.labels import split_of
from training.samples import printable

_ROBOFLOW = "_annotations.coco.json"
_KEYS = ("images", "annotations", "categories")


def is_coco(value: object) -> bool:
    """Whether a JSON value is a set of this format."""
    return isinstance(value, dict) and {"images", "annotations"} <= value.keys()


def files(source: Path) -> list[Path]:
    """Return the files of a source that may be of this format."""
    if source.is_file():
        return [source]
    patterns = ("*.json", "annotations/*.json", f"*/{_ROBOFLOW}")
    return sorted({path for pattern in patterns for path in source.glob(pattern)})


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a file, or all such files of a folder as its splits. Raises `DataError`."""
    notes = Notes()
    values = [(path, read_json(path)) for path in files(source)]
    sets = [(path, value) for path, value in values if source.is_file() or is_coco(value)]
    if not sets:
        raise DataError(f"{printable(source)} holds no COCO file; name one, a .json")
    parts = [_Reader(path, value, images, notes).read() for path, value in sets]
    return LabelSet(tuple(_with_names_apart(parts)), notes.lines())


def _with_names_apart(parts: Sequence[Sequence[LabelledImage]]) -> Iterable[LabelledImage]:
    """Put the split before names that several splits have; an image in two is an error."""
    by_name: dict[str, set[Path]] = defaultdict(set)
    for image in (image for part in parts for image in part):
        if image.path in by_name[image.name.casefold()]:
            raise DataError(f"{printable(image.path)} is in two splits; leave it in a single file")
        by_name[image.name.casefold()].add(image.path)
    for image in (image for part in parts for image in part):
        is_alone = len(by_name[image.name.casefold()]) == 1
        yield image if is_alone else replace(image, name=f"{image.split or 'all'}/{image.name}")


class _Reader:
    def __init__(self, path: Path, value: object, images: Path | None, notes: Notes) -> None:
        self.path, self.notes = path, notes
        self.name = str(printable(path))
        self.value = mapping(value, self.name)
        if missing := [key for key in _KEYS if key not in self.value]:
            raise DataError(f"{self.name} lacks {missing[0]!r}, so that it is no COCO file")
        self.split = _split(path)
        self.images = _images_of(path, images)

    def read(self) -> list[LabelledImage]:
        kinds = self._kinds()
        by_image = self._by_image()
        result = []
        for opened, annotations in by_image.values():
            instances = [self._instance(row, opened, kinds) for row in annotations]
            if not instances:
                self.notes.add("images without an annotation are taken for good parts")
            defects = without_good(instances, self.notes)
            result.append(opened.labelled(instances=defects, split=self.split))
        return result

    def _rows(self, key: str) -> list[tuple[str, Mapping[str, Any]]]:
        rows = sequence(self.value[key], f"{self.name}: {key}")
        where = [f"{self.name}, {key}[{i}]" for i in range(len(rows))]
        return [(place, mapping(row, place)) for place, row in zip(where, rows, strict=True)]

    def _kinds(self) -> dict[object, str]:
        kinds: dict[object, str] = {}
        for where, row in self._rows("categories"):
            key = _identity(row, "id", where)
            if key in kinds:
                raise DataError(f"{where} has the id {brief(key)} again; number them anew")
            kinds[key] = kind_of(row.get("name"), where)
        return kinds

    def _by_image(self) -> dict[object, tuple[Opened, list[tuple[str, Mapping[str, Any]]]]]:
        by_image: dict[object, tuple[Opened, list[tuple[str, Mapping[str, Any]]]]] = {}
        for where, row in self._rows("images"):
            key = _identity(row, "id", where)
            if key in by_image:
                raise DataError(f"{where} has the id {brief(key)} again; number them anew")
            size = size_of(row.get("height"), row.get("width"), where)
            by_image[key] = (self.images.open(row.get("file_name"), where, size), [])
        seen: set[object] = set()
        for where, row in self._rows("annotations"):
            key = _identity(row, "image_id", where)
            if key not in by_image:
                raise DataError(
                    f"{where} belongs to the image {brief(key)}, which is not in the file; remove "
                    "it, or add the image"
                )
            if (number := row.get("id")) is not None:
                if _identity(row, "id", where) in seen:
                    raise DataError(f"{where} has the id {brief(number)} again; number them anew")
                seen.add(number)
            by_image[key][1].append((where, row))
        return by_image

    def _instance(
        self, place: tuple[str, Mapping[str, Any]], opened: Opened, kinds: Mapping[object, str]
    ) -> Instance:
        where, row = place
        key = _identity(row, "category_id", where)
        if key not in kinds:
            raise DataError(
                f"{where} has the category {brief(key)}, which is not in the file; add it to "
                "'categories'"
            )
        shape = _shape(row.get("segmentation"), opened.size, where)
        instance = None if shape is None else with_shape(kinds[key], shape, where)
        if row.get("bbox") is not None:
            numbers = sequence(row["bbox"], f"{where}: bbox")
            return Instance(kinds[key], box_of_numbers(numbers, opened.size, where), shape)
        if instance is None:
            raise DataError(f"{where} has neither 'bbox' nor 'segmentation'; remove it")
        return instance


def _identity(row: Mapping[str, Any], key: str, where: str) -> object:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where} has the {key} {brief(value)}; want a number or a text")
    return value


def _shape(value: object, size: tuple[int, int], where: str) -> Shape | None:
    if value is None or value in ([], {}):
        return None
    if isinstance(value, list):
        rings = value if isinstance(value[0], list) else [value]
        return Outlines(tuple(ring_of_flat(sequence(ring, where), size, where) for ring in rings))
    row = mapping(value, f"{where}: the segmentation")
    declared = row.get("size")
    if declared != list(size):
        raise DataError(
            f"{where} has run lengths for the size {brief(declared)}; its image has {list(size)}"
        )
    counts = row.get("counts")
    if isinstance(counts, str):
        counts = coco_counts(counts, where)
    return runs_down_columns(sequence(counts, f"{where}: counts"), size, where)


def _split(path: Path) -> str:
    name = path.parent.name if path.name == _ROBOFLOW else path.stem
    words = re.split("[^A-Za-z]", name)
    return next((split for word in words if (split := split_of(word)) is not None), "")


def _images_of(path: Path, images: Path | None) -> Images:
    """Look where COCO's own sets and Roboflow's have them, too."""
    usual = Images.beside(path.parent, images)
    part = path.stem.removeprefix("instances_")
    within = tuple(folder / part for folder in usual.folders)
    return replace(usual, folders=(*usual.folders, *within))


def write(labels: LabelSet, folder: Path) -> None:
    """Write `images/`, and a file in `annotations/` for each split."""
    kinds = labels.kinds()
    numbers = {key: i for i, key in enumerate(kinds, start=1)}
    categories = [{"id": numbers[key], "name": kinds[key]} for key in kinds]
    for split in dict.fromkeys(image.split for image in labels.images):
        of_split = [image for image in labels.images if image.split == split]
        rows: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i, image in enumerate(of_split, start=1):
            name = plain_name(image.name)
            place_image(image.path, folder / "images" / name)
            height, width = image.size
            rows.append({"id": i, "file_name": name, "width": width, "height": height})
            for instance in image.instances:
                number = len(annotations) + 1
                key = numbers[instance.kind.casefold()]
                annotations.append(_row(instance, image, {"id": number, "category_id": key}, i))
        name = f"instances_{split}.json" if split else "instances.json"
        value = {"images": rows, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / name, value)


def _row(
    instance: Instance, image: LabelledImage, keys: dict[str, Any], number: int
) -> dict[str, Any]:
    shape, box = instance.shape, [rounded(value) for value in instance.box]
    row = keys | {"image_id": number, "bbox": box, "iscrowd": 0}
    if shape is None:
        return row | {"segmentation": [], "area": rounded(box[2] * box[3])}
    row["area"] = int(np.count_nonzero(shape.pixels(image.size)))
    if isinstance(shape, Outlines):
        rings = [[rounded(v) for v in ring.ravel().tolist()] for ring in shape.rings]
        return row | {"segmentation": rings}
    return row | {"segmentation": {"size": list(image.size), "counts": coco_text(shape.counts)}}
