"""The manifest of Amazon Lookout for Vision (its service ended on 31 October 2025).

https://docs.aws.amazon.com/lookout-for-vision/latest/developer-guide/create-dataset-ground-truth.html
A line of JSON for each image: `anomaly-label-metadata` says whether it is normal, and
`anomaly-mask-ref` names a picture that marks each kind in a colour of `internal-color-map`. Ground
Truth calls these keys by its job. `s3://` addresses are looked up by their end, below `--images`.
A pixel has a single colour: kinds that overlap, boxes, and two kinds without a mask have no place.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.limits import MASK_LIMITS
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import Images, Opened
from training.annotations.reading import Notes, brief, defects_of, kind_of, mapping, without_good
from training.annotations.shapes import Runs
from training.annotations.writing import place_image, plain_name, write_png
from training.errors import DataError
from training.labels import is_normal_name, split_of
from training.manifest import lines
from training.samples import NORMAL, printable

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_BACKGROUND = "background"
_WHITE = 0xFFFFFF
_GENERIC = ("anomaly", "anomalous")
_LABEL, _MASK = "anomaly-label", "anomaly-mask-ref"
_FIRST_COLOURS = (0x2CA02C, 0x1F77B4, 0xFF7F0E, 0xD62728, 0x9467BD, 0x8C564B, 0xE377C2, 0x17BECF)


def files(source: Path) -> list[Path]:
    """Return the manifests of a source."""
    if source.is_file():
        return [source] if source.suffix.lower() in (".manifest", ".jsonl", ".json") else []
    return sorted(source.glob("*.manifest"))


def fits(source: Path) -> bool:
    """Whether a source looks like a manifest of this format."""
    for path in files(source):
        with path.open("rb") as file:
            if b'"source-ref"' in file.read(65_536):
                return True
    return False


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a manifest, or all `.manifest` files of a folder as its splits. Raises `DataError`."""
    notes = Notes()
    paths = files(source)
    if not paths:
        raise DataError(f"{printable(source)} holds no .manifest; name the file")
    labelled: list[LabelledImage] = []
    lookup = Images.beside(paths[0].parent, images)
    for path in paths:
        for number, line in lines(path):
            if line.strip():
                where = f"{printable(path)}, line {number}"
                labelled.append(_image(_row(line, where), lookup, path, where))
    if not any(image.is_good for image in labelled):
        notes.add("manifests without a good part", 1)
    return LabelSet(tuple(labelled), notes.lines())


def _row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = mapping(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); want one object a line") from error
    if "source-ref" not in row:
        raise DataError(f"{where} lacks 'source-ref', so that it is no manifest of Lookout")
    return row


def _image(row: Mapping[str, Any], lookup: Images, path: Path, where: str) -> LabelledImage:
    opened = lookup.open_tail(row["source-ref"], where)
    named = _named(row, "image-classification", _LABEL)
    mask = _named(row, "semantic-segmentation", _MASK)
    if named is None and mask is None:
        raise DataError(f"{where} says nothing of its image; label it, or remove the line")
    notes = Notes()
    instances = () if mask is None else _instances(row, mask, (lookup, opened), where)
    defects = without_good(instances, notes)
    kinds = () if named is None else defects_of([_kind(row, named, where)])
    if defects and kinds and kinds[0].casefold() in _GENERIC:
        kinds = ()
    is_marked = {instance.kind.casefold() for instance in defects}
    kinds = tuple(kind for kind in kinds if kind.casefold() not in is_marked)
    if defects and named is not None and _kind(row, named, where) == NORMAL:
        raise DataError(
            f"{where} is called normal, but its mask marks {brief(defects[0].kind)}; correct one"
        )
    split = split_of(path.stem) or ""
    return opened.labelled(instances=defects, kinds=kinds, split=split)


def _named(row: Mapping[str, Any], job: str, usual: str) -> str | None:
    """Return the key of a job's result, whatever the job was called."""
    if f"{usual}-metadata" in row:
        return usual
    for key, value in row.items():
        is_about = isinstance(value, dict) and str(value.get("type", "")).endswith(job)
        if is_about and key.endswith("-metadata"):
            return key.removesuffix("-metadata")
    return None


def _kind(row: Mapping[str, Any], key: str, where: str) -> str:
    about = mapping(row[f"{key}-metadata"], f"{where}: {key}-metadata")
    if "class-name" in about:
        return kind_of(about["class-name"], where)
    if row.get(key) not in (0, 1) or isinstance(row.get(key), bool):
        raise DataError(f"{where} has the {key} {brief(row.get(key))}; want 0 (normal) or 1")
    return NORMAL if row[key] == 0 else "anomaly"


def _instances(
    row: Mapping[str, Any], key: str, image: tuple[Images, Opened], where: str
) -> tuple[Instance, ...]:
    lookup, opened = image
    colours = _colours(row, key, where)
    apart = Images(lookup.folders, is_explicit=True)  # masks may be called as their images
    place = apart.open_tail(row.get(key), f"{where}: {key}", opened.size)
    pixels = _pixels(place.path, where)
    unmarked = _WHITE
    masks: dict[str, NDArray[np.bool_]] = {}
    for colour, kind in colours.items():
        mask = pixels == colour
        if kind is None:
            unmarked = colour
        elif mask.any():
            masks[kind] = masks[kind] | mask if kind in masks else mask
    strange = np.setdiff1d(pixels, [*colours, unmarked])
    if len(strange):
        raise DataError(
            f"{where}: the mask {printable(place.path)} has the colour #{int(strange[0]):06x}"
            f"{f' and {len(strange) - 1} more' if len(strange) > 1 else ''}, which "
            "'internal-color-map' does not name; add it there, and store masks as PNG"
        )
    return tuple(Instance.of(kind, Runs.of(mask)) for kind, mask in masks.items())


def _colours(row: Mapping[str, Any], key: str, where: str) -> dict[int, str | None]:
    about = mapping(row.get(f"{key}-metadata"), f"{where}: {key}-metadata")
    colours: dict[int, str | None] = {}
    named = mapping(about.get("internal-color-map"), f"{where}: internal-color-map")
    for number, value in named.items():
        place = f"{where}: internal-color-map {brief(number)}"
        entry = mapping(value, place)
        text, name = entry.get("hex-color"), entry.get("class-name")
        if not isinstance(text, str) or _COLOUR.fullmatch(text) is None:
            raise DataError(f"{place} has the hex-color {brief(text)}; want one such as #2ca02c")
        is_background = isinstance(name, str) and name.casefold() == _BACKGROUND
        kind = None if is_background else kind_of(name, place)
        colour = int(text[1:], 16)
        if colours.setdefault(colour, kind) != kind:
            raise DataError(f"{place} has the colour {text} of another kind; give it its own")
    return colours


def _pixels(path: Path, where: str) -> NDArray[np.int64]:
    """Return a picture's colours as 0xRRGGBB, (H, W)."""
    try:
        rgb = decode_image(path.read_bytes(), MASK_LIMITS).pixels.astype(np.int64)
    except (OSError, ImageError) as error:
        raise DataError(f"{where}: the mask {printable(path)} cannot be read: {error}") from error
    colours: NDArray[np.int64] = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    return colours


def losses(labels: LabelSet) -> list[str]:
    """Say what has no place in this format, but for boxes."""
    overlaps = sum(_overlap(image) for image in labels.images)
    several = [i for i in labels.images if len(i.kinds) > 1 or (i.kinds and i.instances)]
    texts = [f"{overlaps} pixels of several kinds: a pixel has a single colour"] if overlaps else []
    if several:
        texts.append(f"kinds without a mask of {len(several)} images (such as {several[0].name})")
    return texts


def _overlap(image: LabelledImage) -> int:
    kinds = {instance.kind.casefold() for instance in image.instances}
    if len(kinds) < 2:
        return 0
    masks = [union_of(image, kind).astype(np.uint8) for kind in kinds]
    return int(np.count_nonzero(np.sum(masks, 0, dtype=np.int64) > 1))


def union_of(image: LabelledImage, kind: str) -> NDArray[np.bool_]:
    """Return all that an image shows of a kind, (H, W)."""
    covered = np.zeros(image.size, bool)
    for instance in image.of_kind(kind):
        covered |= instance.pixels(image.size)
    return covered


def write(labels: LabelSet, folder: Path) -> None:
    """Write `images/`, `masks/`, and a manifest for each split."""
    kinds = labels.kinds()
    colours = dict(zip(kinds, _palette(len(kinds)), strict=True))
    rows: dict[str, list[str]] = {}
    for image in labels.images:
        name = plain_name(image.name)
        place_image(image.path, folder / "images" / name)
        row: dict[str, Any] = {"source-ref": f"images/{name}"} | _about(image)
        if image.instances:
            place = f"masks/{name}.png"
            write_png(folder / place, _painted(image, colours))
            named = {key: kinds[key] for key in colours if image.of_kind(key)}
            row |= {_MASK: place, f"{_MASK}-metadata": _about_mask(named, colours)}
        rows.setdefault(image.split, []).append(json.dumps(row, ensure_ascii=False))
    for split, texts in rows.items():
        path = folder / f"{split or 'dataset'}.manifest"
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _about(image: LabelledImage) -> dict[str, Any]:
    name = "normal" if image.is_good else (image.kinds or ("anomaly",))[0]
    about = {"class-name": name, "type": "groundtruth/image-classification", "confidence": 1}
    return {_LABEL: int(not is_normal_name(name)), f"{_LABEL}-metadata": about | _JOB}


def _about_mask(named: Mapping[str, str], colours: Mapping[str, int]) -> dict[str, Any]:
    entries = [("BACKGROUND", _WHITE), *((kind, colours[key]) for key, kind in named.items())]
    table = {
        str(i): {"class-name": kind, "hex-color": f"#{colour:06x}", "confidence": 0.0}
        for i, (kind, colour) in enumerate(entries)
    }
    return {"internal-color-map": table, "type": "groundtruth/semantic-segmentation"} | _JOB


_JOB = {
    "human-annotated": "yes",
    "creation-date": "1970-01-01T00:00:00.000000",
    "job-name": "labeling-job/maskline",
}


def _painted(image: LabelledImage, colours: Mapping[str, int]) -> NDArray[np.uint8]:
    painted = np.full(image.size, _WHITE, np.int64)
    for key, colour in colours.items():
        painted[union_of(image, key)] = colour
    channels = [painted >> shift & 0xFF for shift in (16, 8, 0)]
    return np.stack(channels, -1).astype(np.uint8)


def _palette(count: int) -> list[int]:
    """Return different colours, none of them white."""
    more = (0x101010 + 0x3A7F1D * i & _WHITE for i in range(2 * count + 16))
    distinct = dict.fromkeys([*_FIRST_COLOURS, *(colour for colour in more if colour != _WHITE)])
    return list(distinct)[:count]
