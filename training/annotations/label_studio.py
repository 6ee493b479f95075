"""Label Studio's JSON export: https://labelstud.io/guide/task_format and …/tags/brushlabels.

`rectanglelabels` (turned ones become polygons), `polygonlabels`, `brushlabels` (run lengths of
RGBA) and `choices` are read. Tasks that nobody finished are left out; a finished one without a
result is a good part. Of several annotations the ground truth counts, or else the last.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    turned,
    with_shape,
    without_good,
)
from training.annotations.rle import brush_code, brush_pixels
from training.annotations.shapes import Outlines, Runs
from training.annotations.writing import marked, place_image, plain_name, write_json
from training.errors import DataError
from training.labels import split_of
from training.samples import NORMAL, printable

_UNPLACED = ("textarea", "rating", "number", "datetime", "relation", "ranker", "pairwise")
_FILE = "label-studio.json"


def is_label_studio(value: object) -> bool:
    """Whether a JSON value is an export of this format."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and {"data", "annotations"} <= value[0].keys()
    )


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read an export, or the only one of a folder. Raises `DataError`."""
    path, notes = _file_of(source), Notes()
    name, value = str(printable(path)), read_json(path)
    if not is_label_studio(value):
        raise DataError(f"{name} is no export of Label Studio; choose JSON, not JSON-MIN, there")
    lookup = Images.beside(path.parent, images)
    labelled = []
    for i, row in enumerate(value):
        where = f"{name}, task {brief(row.get('id', i)) if isinstance(row, dict) else i}"
        if (image := _task(mapping(row, where), lookup, where, notes)) is not None:
            labelled.append(image)
    return LabelSet(tuple(labelled), notes.lines())


def _file_of(source: Path) -> Path:
    if source.is_file():
        return source
    paths = [path for path in sorted(source.glob("*.json")) if is_label_studio(read_json(path))]
    if len(paths) != 1:
        raise DataError(
            f"{printable(source)} holds {len(paths)} exports of Label Studio; name the .json"
        )
    return paths[0]


def _task(row: Mapping[str, Any], lookup: Images, where: str, notes: Notes) -> LabelledImage | None:
    annotation = _annotation(row, where, notes)
    if annotation is None:
        return None
    results = _results(annotation, where)
    data = mapping(row.get("data"), f"{where}: data")
    sizes = {
        size_of(result["original_height"], result["original_width"], place)
        for place, result in results
        if "original_height" in result and "original_width" in result
    }
    if len(sizes) > 1:
        raise DataError(f"{where} has results for images of several sizes; make a task for each")
    opened = lookup.open_tail(_uri(data, where), where, next(iter(sizes), None))
    instances: list[Instance] = []
    kinds: list[str] = []
    for place, result in results:
        form, value = result.get("type"), mapping(result.get("value"), f"{place}: value")
        if form == "choices":
            names = sequence(value.get("choices"), f"{place}: choices")
            kinds += [kind_of(kind, place) for kind in names]
        elif form in _SHAPES:
            instances += _SHAPES[form](value, opened.size, place)
        elif form not in _UNPLACED:
            raise DataError(
                f"{place} is of the type {brief(form)}, which is not read; draw a rectangle, a "
                "polygon or a brush instead"
            )
    if not instances and not kinds:
        notes.add("finished tasks without a result are taken for good parts")
    split = data.get("split")
    return opened.labelled(
        instances=without_good(instances, notes),
        kinds=defects_of(kinds),
        split=(split_of(split) or "") if isinstance(split, str) else "",
    )


def _annotation(row: Mapping[str, Any], where: str, notes: Notes) -> Mapping[str, Any] | None:
    rows = [
        mapping(value, f"{where}: annotations")
        for value in sequence(row.get("annotations"), f"{where}: annotations")
    ]
    finished = [value for value in rows if not value.get("was_cancelled")]
    if not finished:
        notes.add("tasks that nobody finished are not labelled and were left out")
        return None
    if len(finished) > 1:
        notes.add("tasks have several annotations: the ground truth was taken, or else the last")
    truths = [value for value in finished if value.get("ground_truth")]
    return (truths or finished)[-1]


def _results(annotation: Mapping[str, Any], where: str) -> list[tuple[str, Mapping[str, Any]]]:
    rows = sequence(annotation.get("result"), f"{where}: result")
    places = [f"{where}, result {i}" for i in range(len(rows))]
    results = [(place, mapping(row, place)) for place, row in zip(places, rows, strict=True)]
    for place, result in results:
        if result.get("image_rotation"):
            raise DataError(f"{place} was drawn on a turned image; turn the file itself instead")
    return [pair for pair in results if pair[1].get("type") not in _UNPLACED]


def _uri(data: Mapping[str, Any], where: str) -> str:
    texts = [value for key, value in data.items() if isinstance(value, str) and key != "split"]
    named = data.get("image") if isinstance(data.get("image"), str) else None
    if named is None and len(texts) != 1:
        raise DataError(f"{where} does not say which of its data is the image; call it 'image'")
    uri = named or texts[0]
    return uri.split("?d=", 1)[-1]  # of local files: /data/local-files/?d=folder/name.png


def _kinds(value: Mapping[str, Any], key: str, where: str) -> Sequence[str]:
    names = sequence(value.get(key), f"{where}: {key}")
    if not names:
        raise DataError(f"{where} has no label; give it one, or remove it")
    return [kind_of(name, where) for name in names]


def _rectangle(value: Mapping[str, Any], size: tuple[int, int], where: str) -> list[Instance]:
    shares = [number(value.get(key), f"{where}: {key}") for key in ("x", "y", "width", "height")]
    sides = (size[1], size[0], size[1], size[0])
    x, y, width, height = (share * side / 100 for share, side in zip(shares, sides, strict=True))
    kinds = _kinds(value, "rectanglelabels", where)
    angle = number(value.get("rotation") or 0, f"{where}: rotation")
    if not angle:
        box = box_of_numbers([x, y, width, height], size, where)
        return [Instance(kind, box) for kind in kinds]
    ring = ring_of(turned((x, y, width, height), angle, (x, y)), size, where)
    return [with_shape(kind, Outlines((ring,)), where) for kind in kinds]


def _polygon(value: Mapping[str, Any], size: tuple[int, int], where: str) -> list[Instance]:
    points = []
    for point in sequence(value.get("points"), f"{where}: points"):
        pair = sequence(point, f"{where}: points")
        sides = (size[1], size[0])
        points.append([number(v, where) * s / 100 for v, s in zip(pair, sides, strict=False)])
    ring = ring_of(points, size, where)
    return [
        with_shape(kind, Outlines((ring,)), where) for kind in _kinds(value, "polygonlabels", where)
    ]


def _brush(value: Mapping[str, Any], size: tuple[int, int], where: str) -> list[Instance]:
    if value.get("format") != "rle":
        raise DataError(f"{where} is a brush of the format {brief(value.get('format'))}; want rle")
    code = sequence(value.get("rle"), f"{where}: rle")
    runs = Runs.of(brush_pixels(code, size, where))
    return [with_shape(kind, runs, where) for kind in _kinds(value, "brushlabels", where)]


_Read = Callable[[Mapping[str, Any], tuple[int, int], str], list[Instance]]
_SHAPES: dict[object, _Read] = {
    "rectanglelabels": _rectangle,
    "polygonlabels": _polygon,
    "brushlabels": _brush,
}


def write(labels: LabelSet, folder: Path) -> None:
    """Write `images/` and a file of tasks."""
    tasks = []
    for i, image in enumerate(labels.images, start=1):
        name = plain_name(image.name)
        place_image(image.path, folder / "images" / name)
        height, width = image.size
        common = {
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
        }
        results = [common | _result(instance, image) for instance in image.instances]
        if kinds := list(image.kinds) or ([NORMAL] if image.is_good else []):
            results.append(common | {"type": "choices", "value": {"choices": kinds}})
        rows = [row | {"id": f"{i}-{k}"} for k, row in enumerate(results)]
        annotation = {"id": i, "was_cancelled": False, "ground_truth": False, "result": rows}
        data = {"image": f"images/{name}"} | ({"split": image.split} if image.split else {})
        tasks.append({"id": i, "data": data, "annotations": [annotation], "predictions": []})
    write_json(folder / _FILE, tasks)


def _result(instance: Instance, image: LabelledImage) -> dict[str, Any]:
    shape, kinds = instance.shape, [instance.kind]
    height, width = image.size
    if shape is None:
        x, y, w, h = instance.box
        sides = {"x": x / width, "y": y / height, "width": w / width, "height": h / height}
        value: dict[str, Any] = {key: 100 * share for key, share in sides.items()}
        value |= {"rotation": 0, "rectanglelabels": kinds}
        return {"type": "rectanglelabels", "value": value}
    if isinstance(shape, Outlines) and len(shape.rings) == 1:
        points = (shape.rings[0] * 100 / (width, height)).tolist()
        value = {"points": points, "closed": True, "polygonlabels": kinds}
        return {"type": "polygonlabels", "value": value}
    code = brush_code(marked(instance, image))
    return {"type": "brushlabels", "value": {"format": "rle", "rle": code, "brushlabels": kinds}}
