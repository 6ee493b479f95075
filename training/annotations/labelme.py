"""LabelMe's files, one `.json` for each image: https://github.com/wkentaro/labelme.

Rectangles, polygons, circles and masks (a PNG of their box, 0 and 1) are read; a mask stays one.
`flags` that are set name what the whole image shows, `good` among them. Images without a file are
not labelled, and left out.
"""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from anomaly.errors import ImageError
from anomaly.png import png_size
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import Images
from training.annotations.reading import (
    Notes,
    box_of_numbers,
    brief,
    defects_of,
    kind_of,
    mapping,
    number,
    read_json,
    ring_of,
    sequence,
    size_of,
    with_shape,
    without_good,
)
from training.annotations.shapes import Outlines, Runs, Shape, box_of
from training.annotations.writing import (
    marked,
    place_image,
    plain_name,
    png_of,
    rounded,
    write_json,
)
from training.errors import DataError
from training.files import Folder, read_tree
from training.samples import NORMAL, printable

_CORNERS = 64  # of a circle
_VERSION = "5.5.0"


def is_labelme(value: object) -> bool:
    """Whether a JSON value is a file of this format."""
    return isinstance(value, dict) and {"shapes", "imagePath"} <= value.keys()


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a file, or all files of a folder and below. Raises `DataError`."""
    notes = Notes()
    tree = None if source.is_file() else read_tree(source, Counter())
    paths = [source] if tree is None else sorted(_json_below(tree))
    if not paths:
        raise DataError(f"{printable(source)} holds no .json of LabelMe")
    root = source.parent if source.is_file() else source
    labelled = [_read_file(path, root, images, notes) for path in paths]
    _refuse_repeated(labelled)
    if tree is not None:
        paths_read = {image.path for image in labelled}
        bare = sum(path not in paths_read for path in tree.below())
        notes.add("images without a .json are not labelled and were left out", bare)
    return LabelSet(tuple(labelled), notes.lines())


def _json_below(folder: Folder) -> list[Path]:
    paths = [folder.path / name for name in folder.others if name.lower().endswith(".json")]
    return paths + [path for below in folder.folders for path in _json_below(below)]


def _refuse_repeated(labelled: Sequence[LabelledImage]) -> None:
    seen: dict[Path, str] = {}
    for image in labelled:
        if seen.setdefault(image.path, image.name) is not image.name:
            raise DataError(f"two files label {printable(image.path)}; remove one")


def _read_file(path: Path, root: Path, images: Path | None, notes: Notes) -> LabelledImage:
    where = str(printable(path))
    value = mapping(read_json(path), where)
    if not is_labelme(value):
        raise DataError(
            f"{where} lacks 'shapes' and 'imagePath', so that it is no file of LabelMe; move it "
            "away, or say what it is: --from FORMAT"
        )
    size = size_of(value.get("imageHeight"), value.get("imageWidth"), where)
    opened = Images.beside(path.parent, images).open(value["imagePath"], where, size)
    shapes = sequence(value["shapes"], f"{where}: shapes")
    instances = []
    for i, row in enumerate(shapes):
        place = f"{where}, shapes[{i}]"
        instances.append(_instance(mapping(row, place), size, place))
    flags = mapping(value.get("flags") or {}, f"{where}: flags")
    kinds = [kind_of(key, f"{where}: flags") for key, is_set in flags.items() if is_set is True]
    if not instances and not kinds:
        notes.add("images whose file has no shapes are taken for good parts")
    name = opened.path.name
    if opened.path.is_relative_to(root):
        name = opened.path.relative_to(root).as_posix()
    defects = without_good(instances, notes)
    return LabelledImage(opened.path, name, size, defects, defects_of(kinds))


def _instance(row: Mapping[str, Any], size: tuple[int, int], where: str) -> Instance:
    kind = kind_of(row.get("label"), where)
    points = sequence(row.get("points"), f"{where}: points")
    form = row.get("shape_type") or "polygon"
    if form == "polygon":
        return with_shape(kind, Outlines((ring_of(points, size, where),)), where)
    if form not in ("rectangle", "circle", "mask"):
        raise DataError(
            f"{where} is a {brief(form)}, which covers no area; draw a polygon, a rectangle or a "
            "mask instead"
        )
    if len(points) != 2:
        raise DataError(f"{where} is a {form} of {len(points)} points; want two")
    (x0, y0), (x1, y1) = (_point(point, where) for point in points)
    if form == "circle":
        angles = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
        radius = math.hypot(x1 - x0, y1 - y0)
        ring = np.array([x0, y0]) + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        corners = ring_of(ring.clip(0, (size[1], size[0])).tolist(), size, where)
        return with_shape(kind, Outlines((corners,)), where)
    if form == "mask":
        return with_shape(kind, _mask(row.get("mask"), (x0, y0, x1, y1), size, where), where)
    left, top = min(x0, x1), min(y0, y1)
    return Instance(kind, box_of_numbers([left, top, abs(x1 - x0), abs(y1 - y0)], size, where))


def _point(point: object, where: str) -> tuple[float, float]:
    pair = sequence(point, where)
    if len(pair) != 2:
        raise DataError(f"{where} has the point {brief(point)}; want x, y")
    return number(pair[0], where), number(pair[1], where)


def _mask(
    text: object, corners: tuple[float, float, float, float], size: tuple[int, int], where: str
) -> Shape:
    """Decode a mask, whose box includes both of its corners."""
    left, top, right, bottom = (round(value) for value in corners)
    shape = (bottom - top + 1, right - left + 1)
    is_within = left >= 0 and top >= 0 and right < size[1] and bottom < size[0]
    if not is_within or min(shape) < 1:
        raise DataError(f"{where} has a mask outside of its image; correct or remove it")
    try:
        data = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where} has a mask that is not base64; save it again") from error
    if _png_size(data) != shape:
        raise DataError(
            f"{where} has a mask that is no PNG of {shape[1]}×{shape[0]} px, as its points say; "
            "save it again"
        )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None or pixels.shape != shape:
        raise DataError(f"{where} has a damaged mask; save it again")
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = pixels > 0
    return Runs.of(mask)


def _png_size(data: bytes) -> tuple[int, int] | None:
    try:
        return png_size(data)
    except ImageError:
        return None


def write(labels: LabelSet, folder: Path) -> None:
    """Write each image with its file beside it."""
    for image in labels.images:
        name = plain_name(image.name)
        place_image(image.path, folder / name)
        path = (folder / name).with_suffix(".json")
        if path.exists():
            raise DataError(f"{name} differs from another image in its extension alone; rename it")
        flags = dict.fromkeys(image.kinds, True) or ({NORMAL: True} if image.is_good else {})
        value = {
            "version": _VERSION,
            "flags": flags,
            "shapes": [_row(instance, image) for instance in image.instances],
            "imagePath": PurePosixPath(name).name,
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        write_json(path, value)


def _row(instance: Instance, image: LabelledImage) -> dict[str, Any]:
    shape, mask = instance.shape, None
    if shape is None:
        x, y, width, height = instance.box
        form, points = "rectangle", np.array([[x, y], [x + width, y + height]])
    elif isinstance(shape, Outlines) and len(shape.rings) == 1:
        form, points = "polygon", shape.rings[0]
    else:
        pixels = marked(instance, image)
        left, top, width, height = (int(value) for value in box_of(pixels))
        form = "mask"
        points = np.array([[left, top], [left + width - 1, top + height - 1]], float)
        crop = pixels[top : top + height, left : left + width].astype(np.uint8)
        mask = base64.b64encode(png_of(crop)).decode()
    return {
        "label": instance.kind,
        "points": [[rounded(x), rounded(y)] for x, y in points.tolist()],
        "group_id": None,
        "description": "",
        "shape_type": form,
        "flags": {},
        "mask": mask,
    }
