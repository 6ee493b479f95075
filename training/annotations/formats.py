"""The table of formats: what each can hold, how it is recognised, read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.annotations import coco, cvat, label_studio, labelme, lookout, mvtec, yolo
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.reading import read_json
from training.annotations.shapes import rectangle
from training.annotations.writing import write_folder
from training.errors import DataError
from training.samples import printable


@dataclass(frozen=True, slots=True)
class Format:
    """A format: `boxes` and `kinds_alone` (of a whole image) are what it may have no place for."""

    title: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Path | None], LabelSet]
    write: Callable[[LabelSet, Path], None]
    boxes: bool = True
    kinds_alone: bool = True
    losses: Callable[[LabelSet], list[str]] = lambda labels: []


def _any_json(source: Path, is_such: Callable[[Any], bool], *folders: str) -> bool:
    """Whether a file, or a .json in a folder, is of a format."""
    patterns = ("*.json", *(f"{folder}/*.json" for folder in folders))
    paths = [source] if source.is_file() else [p for g in patterns for p in sorted(source.glob(g))]
    paths = [path for path in paths if path.suffix.lower() == ".json"]
    return any(is_such(_value(path)) for path in paths[:_MOST_SNIFFED])


def _value(path: Path) -> object:
    """Return what a JSON file holds; None where it is damaged, which is said if no format fits."""
    try:
        return read_json(path)
    except DataError:
        return None


_MOST_SNIFFED = 20

FORMATS: Mapping[str, Format] = {
    "mvtec": Format(
        "folders as MVTec AD has them, with masks",
        mvtec.fits,
        mvtec.read,
        mvtec.write,
        boxes=False,
        losses=mvtec.losses,
    ),
    "coco": Format(
        "COCO instances (.json)",
        lambda source: _any_json(source, coco.is_coco, "annotations", "*"),
        coco.read,
        coco.write,
        kinds_alone=False,
    ),
    "yolo": Format(
        "YOLO boxes or polygons (data.yaml)", yolo.fits, yolo.read, yolo.write, kinds_alone=False
    ),
    "labelme": Format(
        "LabelMe (.json for each image)",
        lambda source: _any_json(source, labelme.is_labelme, "**"),
        labelme.read,
        labelme.write,
    ),
    "cvat": Format("CVAT for images 1.1 (annotations.xml)", cvat.fits, cvat.read, cvat.write),
    "labelstudio": Format(
        "Label Studio (JSON export)",
        lambda source: _any_json(source, label_studio.is_label_studio),
        label_studio.read,
        label_studio.write,
    ),
    "lookout": Format(
        "Amazon Lookout for Vision (.manifest)",
        lookout.fits,
        lookout.read,
        lookout.write,
        boxes=False,
        losses=lookout.losses,
    ),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert: an empty `source_format` is recognised; `is_lossy` writes what fits."""

    target_format: str
    source_format: str = ""
    images: Path | None = None
    force: bool = False
    is_lossy: bool = False
    fill_boxes: bool = False


def format_called(name: str) -> Format:
    """Return a format by its name; raises `DataError`."""
    if name not in FORMATS:
        raise DataError(f"the format {name[:80]!r} is not among {', '.join(FORMATS)}")
    return FORMATS[name]


def recognised(source: Path) -> str:
    """Return the name of the only format that fits; raises `DataError`."""
    if not source.exists():
        raise DataError(f"{printable(source)} does not exist")
    names = [name for name, form in FORMATS.items() if form.fits(source)]
    if len(names) == 1:
        return names[0]
    if not names:
        for path in [source] if source.is_file() else sorted(source.glob("*.json")):
            if path.suffix.lower() == ".json":
                read_json(path)  # says so where it is damaged
        raise DataError(
            f"{printable(source)} is of no format that is recognised; say which: --from "
            f"{'|'.join(FORMATS)}"
        )
    raise DataError(
        f"{printable(source)} fits {' and '.join(names)}; say which: --from {'|'.join(names)}"
    )


def read_labels(source: Path, name: str = "", images: Path | None = None) -> LabelSet:
    """Read a set of labels, recognising its format where none is named. Raises `DataError`."""
    if not source.exists():
        raise DataError(f"{printable(source)} does not exist")
    labels = format_called(name or recognised(source)).read(source, images)
    if not labels.images:
        raise DataError(f"{printable(source)} has no labelled image")
    return labels


def convert(source: Path, target: Path, how: Conversion) -> tuple[LabelSet, list[str]]:
    """Convert a set of labels; returns what was written, and what was lost of it.

    Raises `DataError` where something would be lost and `is_lossy` is not set, and whatever
    reading and writing raise. The target appears when all is there, or not at all.
    """
    form = format_called(how.target_format)
    labels = read_labels(source, how.source_format, how.images)
    if how.fill_boxes:
        labels = filled(labels)
    lost = losses(labels, form)
    if lost and not how.is_lossy:
        fill = " --fill-boxes draws boxes as masks." if _of_boxes(labels) and not form.boxes else ""
        raise DataError(
            f"{how.target_format} has no place for {'; '.join(lost)}.{fill} Choose another format, "
            "or --lossy to leave them out"
        )
    if lost:
        labels = reduced(labels, form)
    write_folder(form.write, labels, target, source=source, force=how.force)
    return labels, lost


def losses(labels: LabelSet, form: Format) -> list[str]:
    """Say what of a set a format has no place for."""
    texts = []
    if not form.boxes and (boxed := _of_boxes(labels)):
        count = sum(i.shape is None for image in boxed for i in image.instances)
        texts.append(
            f"{count} boxes without a mask in {len(boxed)} images (such as {boxed[0].name})"
        )
    if not form.kinds_alone and (alone := [i for i in labels.images if i.kinds]):
        texts.append(f"kinds without a place of {len(alone)} images (such as {alone[0].name})")
    return texts + form.losses(labels)


def reduced(labels: LabelSet, form: Format) -> LabelSet:
    """Leave out what a format cannot hold; no defective image ever becomes a good one by it."""
    images = []
    for image in labels.images:
        if not form.kinds_alone and image.kinds:
            if not image.instances:
                continue
            images.append(replace(image, kinds=()))
        elif not form.boxes and any(i.shape is None for i in image.instances):
            images.append(replace(image, instances=(), kinds=image.all_kinds()))
        else:
            images.append(image)
    if not images:
        raise DataError("nothing would remain of the set; choose another format")
    return LabelSet(tuple(images), labels.notes)


def filled(labels: LabelSet) -> LabelSet:
    """Take every box for the shape of what it holds."""
    return replace(labels, images=tuple(_with_shapes(image) for image in labels.images))


def _with_shapes(image: LabelledImage) -> LabelledImage:
    instances = [
        i if i.shape is not None else Instance(i.kind, i.box, rectangle(i.box))
        for i in image.instances
    ]
    return replace(image, instances=tuple(instances))


def _of_boxes(labels: LabelSet) -> list[LabelledImage]:
    return [i for i in labels.images if any(instance.shape is None for instance in i.instances)]
