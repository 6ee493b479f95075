"""YOLO's text files: https://docs.ultralytics.com/datasets/detect/ and …/segment/.

A row is `class x y width height` (centre and size) or `class x y x y x y …` (a polygon), each as a
share of the image's sides. A set has `data.yaml` with its names and folders, or `classes.txt`;
images lie in `images/`, their rows in `labels/`, or both in one folder. There are no masks: what is
not a polygon is written as the outline of its pixels, parts and holes joined by lines. An image
without rows is taken for a good part. A kind that nobody located has no place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from anomaly.image import EXTENSIONS
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import Opened, leads_out, measured
from training.annotations.reading import (
    Notes,
    box_of_numbers,
    brief,
    kind_of,
    number,
    read_text,
    ring_of_flat,
    whole_number,
    with_shape,
    without_good,
)
from training.annotations.shapes import Outlines, outline, rectangle
from training.annotations.writing import marked, place_image, plain_name
from training.errors import DataError
from training.labels import split_of
from training.samples import printable

_SETTINGS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_CLASSES = ("classes.txt", "labels/classes.txt", "obj.names")
_SPLITS = ("train", "val", "test")
_LARGEST_SETTINGS = 1_000_000  # characters: names alone


@dataclass(frozen=True, slots=True)
class _Set:
    root: Path
    names: tuple[str, ...]
    folders: tuple[tuple[str, Path], ...]  # (split, folder of images)
    rows: Path | None = None  # where the rows lie, if not beside the images


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML without aliases, by which a small file can stand for a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)


def fits(source: Path) -> bool:
    """Whether a source looks like a set of this format."""
    if source.is_file():
        return source.suffix.lower() in (".yaml", ".yml")
    return any((source / name).is_file() for name in (*_SETTINGS, *_CLASSES))


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a set by its folder or its `data.yaml`. Raises `DataError`."""
    notes = Notes()
    described = _described(source, images)
    labelled: dict[Path, LabelledImage] = {}
    for split, folder in described.folders:
        for image in _of_folder(folder, described, notes):
            if image.path in labelled and labelled[image.path].split != split:
                raise DataError(
                    f"{printable(image.path)} is in two splits; name it in a single one"
                )
            labelled[image.path] = replace(image, split=split)
    if not labelled:
        raise DataError(f"{printable(source)} has no images; name their folder: --images FOLDER")
    return LabelSet(tuple(labelled.values()), notes.lines())


def _described(source: Path, images: Path | None) -> _Set:
    root = source.parent if source.is_file() else source
    settings = source if source.is_file() else _first(root, _SETTINGS)
    if settings is None:
        classes = _first(root, _CLASSES)
        if classes is None:
            raise DataError(
                f"{printable(source)} has neither {_SETTINGS[0]} nor {_CLASSES[0]}, which say what "
                "the classes are called; add one"
            )
        lines = [line.strip() for line in read_text(classes).splitlines()]
        names = tuple(kind_of(line, str(printable(classes))) for line in lines if line)
        return _Set(root, names, (("", images or _images_folder(root)),), _rows_root(root, images))
    value = _settings(settings)
    names = _names(value.get("names"), str(printable(settings)))
    folders = tuple(_folders(root, value, settings)) if images is None else (("", images),)
    return _Set(root, names, folders, _rows_root(root, images))


def _rows_root(root: Path, images: Path | None) -> Path | None:
    if images is None:
        return None
    return root / "labels" if (root / "labels").is_dir() else root


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _images_folder(root: Path) -> Path:
    return root / "images" if (root / "images").is_dir() else root


def _settings(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        if len(text) > _LARGEST_SETTINGS:
            raise ValueError(f"{len(text)} characters")
        value = yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{printable(path)} is not YAML: {brief(error)}; correct it") from error
    if not isinstance(value, dict) or "names" not in value:
        raise DataError(f"{printable(path)} lacks 'names', so that it is no data set of YOLO")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, dict):
        if set(value) != set(range(len(value))):
            raise DataError(
                f"{where} numbers its names {brief(sorted(map(str, value)))}; want 0, 1 …"
            )
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list):
        raise DataError(f"{where} has the names {brief(value)}; want a list")
    texts = [name if isinstance(name, str) else str(name) for name in value]
    return tuple(kind_of(text, f"{where}: name {i}") for i, text in enumerate(texts))


def _folders(root: Path, value: dict[str, Any], settings: Path) -> Iterator[tuple[str, Path]]:
    base = value.get("path")
    bases = [root / base, root] if isinstance(base, str) and not leads_out(base) else [root]
    places: dict[Path, list[str]] = {}
    for key in (key for key in _SPLITS if value.get(key)):
        named = value[key] if isinstance(value[key], list) else [value[key]]
        for name in named:
            folder = _folder(bases, name, f"{printable(settings)}: {key}")
            places.setdefault(folder, []).append(split_of(key) or "")
    for folder, splits in places.items():
        yield splits[0] if len(splits) == 1 else "", folder
    if not places:
        yield "", _images_folder(root)


def _folder(bases: Sequence[Path], name: object, where: str) -> Path:
    """Return a split's folder; Roboflow writes `../train/images` for `train/images`."""
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} is {brief(name)}; want the name of a folder of images")
    inner = name
    while inner.startswith("../"):
        inner = inner[3:]
    if leads_out(inner):
        raise DataError(
            f"{where} is {brief(name)}, which leads out of the set; name a folder in it"
        )
    for base in bases:
        if (base / inner).is_dir():
            return base / inner
    raise DataError(
        f"{where} is {brief(name)}, which is no folder below {printable(bases[-1])}; put the "
        "images there (a .txt that lists them is not read)"
    )


def _of_folder(folder: Path, described: _Set, notes: Notes) -> Iterator[LabelledImage]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    rows_of = {_rows_path(path, folder, described.rows): path for path in paths}
    if len(rows_of) < len(paths):
        raise DataError(
            f"{printable(folder)} has images that differ in their extension alone, and so share "
            "their rows; rename them"
        )
    for beside in dict.fromkeys(path.parent for path in rows_of):
        for rows in sorted(beside.glob("*.txt")):
            if rows not in rows_of and rows.name not in ("classes.txt", "train.txt"):
                raise DataError(
                    f"{printable(rows)} has no image below {printable(folder)}; remove it"
                )
    if rows_of and not any(rows.is_file() for rows in rows_of):
        raise DataError(
            f"no image below {printable(folder)} has rows, such as "
            f"{printable(next(iter(rows_of)))}; put the .txt files there (an empty one for a good "
            "part), as else all would be good parts"
        )
    for rows, path in rows_of.items():
        yield _image(rows, path, described, notes)


def _rows_path(image: Path, folder: Path, rows: Path | None) -> Path:
    """Return the file of an image's rows: `labels` for the last `images` of its path."""
    if rows is not None:
        return (rows / image.relative_to(folder)).with_suffix(".txt")
    parts = list(image.with_suffix(".txt").parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
        if Path(*parts[: places[-1] + 1]).is_dir():
            return Path(*parts)
    return image.with_suffix(".txt")


def _image(rows: Path, path: Path, described: _Set, notes: Notes) -> LabelledImage:
    size = measured(path, str(printable(rows)), None)
    instances = []
    if rows.is_file():
        for i, line in enumerate(read_text(rows).splitlines(), start=1):
            if line.strip():
                where = f"{printable(rows)}, line {i}"
                instances.append(_instance(line.split(), size, described.names, where))
    if not instances:
        notes.add("images without rows are taken for good parts")
    name = _name(path, described.root)
    return Opened(path, name, size).labelled(instances=without_good(instances, notes))


def _name(path: Path, root: Path) -> str:
    """Return an image's path below the set, without `images`."""
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return PurePosixPath(*(part for part in below.parts if part != "images")).as_posix()


def _instance(
    words: Sequence[str], size: tuple[int, int], names: Sequence[str], where: str
) -> Instance:
    key = whole_number(words[0], f"{where}: the class")
    if key >= len(names):
        raise DataError(f"{where} has the class {key}; there are names for 0 to {len(names) - 1}")
    shares = [number(word, where) for word in words[1:]]
    sides = (size[1], size[0])
    pixels = [share * sides[i % 2] for i, share in enumerate(shares)]
    if len(pixels) == 4:
        x, y, width, height = pixels
        box = box_of_numbers([x - width / 2, y - height / 2, width, height], size, where)
        return Instance(names[key], box)
    return with_shape(names[key], Outlines((ring_of_flat(pixels, size, where),)), where)


def write(labels: LabelSet, folder: Path) -> None:
    """Write `images/`, `labels/` and `data.yaml`; boxes among polygons become polygons."""
    kinds = labels.kinds()
    numbers = {key: i for i, key in enumerate(kinds)}
    is_boxes = all(instance.shape is None for _, instance in labels.instances())
    for image in labels.images:
        name = _written_name(image, has_splits=labels.has_splits())
        place_image(image.path, folder / "images" / name)
        keys = [numbers[instance.kind.casefold()] for instance in image.instances]
        shares = [_shares(i, image, is_boxes=is_boxes) for i in image.instances]
        rows = [f"{key} {share}\n" for key, share in zip(keys, shares, strict=True)]
        path = (folder / "labels" / name).with_suffix(".txt")
        if path.exists():
            raise DataError(f"{name} differs from another image in its extension alone; rename it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows), encoding="utf-8")
    splits = {image.split or "train" for image in labels.images}
    places = {
        key: f"images/{key}" if labels.has_splits() else "images"
        for key in ("train", "val", "test")
        if not labels.has_splits() or split_of(key) in splits
    }
    settings = {"path": "."} | places | {"names": dict(enumerate(kinds.values()))}
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _written_name(image: LabelledImage, *, has_splits: bool) -> str:
    name = plain_name(image.name)
    if not has_splits:
        return name
    split = "val" if image.split == "validation" else image.split or "train"
    return name if name.startswith(f"{split}/") else f"{split}/{name}"


def _shares(instance: Instance, image: LabelledImage, *, is_boxes: bool) -> str:
    height, width = image.size
    if is_boxes:
        x, y, w, h = instance.box
        return _text([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height])
    shape = instance.shape or rectangle(instance.box)
    is_ring = isinstance(shape, Outlines) and len(shape.rings) == 1
    ring = shape.rings[0] if is_ring else outline(marked(instance, image))  # type: ignore[union-attr]
    return _text((ring / (width, height)).ravel().tolist())


def _text(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.8f}".rstrip("0").rstrip(".") for share in shares)
