"""Folders as MVTec AD has them, which is what `maskline train` and `evaluate` read.

`train/good`, `test/<kind>` and `ground_truth/<kind>/<stem>_mask.png`; without splits `good/`,
`<kind>/` and `ground_truth/<kind>/`, from which training draws its splits. All instances of a kind
in an image become one mask. An image of several kinds lies in `combined/`, and its masks in a
folder of its name, a picture for each kind, so that nothing is lost: `ground_truth/combined/<stem>/
scratch.png`. Any other layout or manifest that Maskline reads is read, too.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookout import union_of
from training.annotations.lookup import leads_out, measured
from training.annotations.reading import kind_of
from training.annotations.shapes import Runs
from training.annotations.writing import place_image, plain_name, write_mask
from training.data import listed
from training.errors import DataError
from training.labels import is_mask_name, is_normal_name, split_of
from training.samples import NORMAL, Dataset, Sample, printable
from training.truth import mask_files, read_pixels

COMBINED = "combined"
_TRUTH = "ground_truth"
_LONGEST_NAME = 200  # bytes
_NUMBERED = re.compile("[0-9]+")  # MVTec LOCO's regions


def fits(source: Path) -> bool:
    """Whether a folder, or a split in it, has a folder of good parts."""
    if source.is_file():
        return False
    splits = [entry for entry in source.iterdir() if entry.is_dir() and split_of(entry.name)]
    below = [entry for folder in (source, *splits) for entry in folder.iterdir()]
    return any(is_normal_name(entry.name) and entry.is_dir() for entry in below)


def read(source: Path, images: Path | None = None) -> LabelSet:
    """Read a folder or manifest as training does. Raises `DataError`."""
    if images is not None:
        raise DataError("folders hold their images themselves; leave out --images")
    dataset = listed(source)
    has_splits = not any("train" in sample.drawn_into for sample in dataset.samples)
    labelled = [_image(sample, has_splits=has_splits) for sample in dataset.samples]
    return LabelSet(tuple(labelled), tuple(_notes_on(dataset)))


def _notes_on(dataset: Dataset) -> Iterator[str]:
    yield from dataset.listing.notes
    if dataset.listing.left_out:
        left = ", ".join(f"{count} {kind}" for kind, count in dataset.listing.left_out.items())
        yield f"left out: {left}"


def _image(sample: Sample, *, has_splits: bool) -> LabelledImage:
    where = str(printable(sample.name))
    size = measured(sample.path, where, None)
    name = sample.name if not leads_out(sample.name) else sample.path.name
    split = sample.split if has_splits else ""
    if sample.is_normal:
        return LabelledImage(sample.path, name, size, split=split)
    label = kind_of(sample.label, where)
    paths = mask_files(sample)
    names_kinds = sample.mask is not None and sample.mask.is_dir() and label == COMBINED
    instances = []
    for path in paths:
        pixels = read_pixels(path)
        if pixels.shape != size:
            raise DataError(
                f"the mask {printable(path)} is {pixels.shape[1]}×{pixels.shape[0]} px, its image "
                f"{size[1]}×{size[0]} px; they must be of one size"
            )
        is_named = names_kinds and not _NUMBERED.fullmatch(path.stem)
        kind = kind_of(path.stem, str(printable(path))) if is_named else label
        if pixels.any():
            instances.append(Instance.of(kind, Runs.of(pixels)))
    kinds = () if instances else (label,)
    return LabelledImage(sample.path, name, size, tuple(instances), kinds, split)


def losses(labels: LabelSet) -> list[str]:
    """Say what has no place in this layout, but for boxes."""
    partly = [image for image in labels.images if _lacks_masks(image)]
    if not partly:
        return []
    return [
        f"which kinds {len(partly)} images show (such as {partly[0].name}), as not all of their "
        "kinds have a mask; COCO, CVAT or Label Studio hold them"
    ]


def _lacks_masks(image: LabelledImage) -> bool:
    """Whether an image has several kinds, and one of them without a mask."""
    kinds = image.all_kinds()
    return len(kinds) > 1 and not all(union_of(image, kind).any() for kind in kinds)


def write(labels: LabelSet, folder: Path) -> None:
    """Write the folders; the names of kinds become names of folders."""
    kinds = labels.kinds()
    has_splits = labels.has_splits()
    for kind in kinds.values():
        _check_folder_name(kind, has_splits=has_splits)
    stems: set[str] = set()
    for image in labels.images:
        label = _label(image, kinds)
        name = _below(plain_name(image.name), label)
        split = _split(image) if has_splits else ""
        place = PurePosixPath(split, label, name)
        stem = place.with_suffix("").as_posix().casefold()
        if stem in stems:
            raise DataError(
                f"{image.name} would have the same name as another image, {place}; rename it"
            )
        stems.add(stem)
        place_image(image.path, folder / place)
        if image.instances and not _lacks_masks(image):
            _write_masks(image, folder / _TRUTH / label, PurePosixPath(name).with_suffix(""), kinds)


def _write_masks(
    image: LabelledImage, folder: Path, stem: PurePosixPath, kinds: dict[str, str]
) -> None:
    spelt = [kinds[kind.casefold()] for kind in image.all_kinds()]
    for kind in spelt:
        mask = union_of(image, kind)
        if len(spelt) > 1 and _NUMBERED.fullmatch(kind):
            raise DataError(
                f"{image.name} shows several kinds, one of them called {kind!r}: there, a number "
                "names a region; rename the kind, or choose --to coco"
            )
        if len(spelt) > 1:
            write_mask(folder / stem / f"{kind}.png", mask)
        elif mask.any():
            write_mask((folder / stem).with_name(f"{stem.name}_mask.png"), mask)


def _label(image: LabelledImage, kinds: dict[str, str]) -> str:
    spelt = [kinds[kind.casefold()] for kind in image.all_kinds()]
    return NORMAL if not spelt else spelt[0] if len(spelt) == 1 else COMBINED


def _split(image: LabelledImage) -> str:
    """Return the folder of an image's split; training takes good parts alone."""
    return (image.split or "train") if image.is_good else "test"


def _below(name: str, label: str) -> str:
    """Leave out the folders that a name already has from such a layout."""
    parts = PurePosixPath(name).parts
    if len(parts) > 1 and split_of(parts[0]) is not None:
        parts = parts[1:]
    if len(parts) > 1 and parts[0].casefold() == label.casefold():
        parts = parts[1:]
    return PurePosixPath(*parts).as_posix()


def _check_folder_name(kind: str, *, has_splits: bool) -> None:
    is_plain = kind == kind.strip() and not kind.startswith(".") and kind.isprintable()
    is_short = len(kind.encode()) <= _LONGEST_NAME
    is_reserved = is_mask_name(kind) or is_normal_name(kind)
    if not has_splits:
        is_reserved |= split_of(kind) is not None
    if not is_plain or not is_short or is_reserved or re.search(r'[/\\:*?"<>|]', kind):
        raise DataError(
            f"the kind {kind[:80]!r} cannot name a folder of defects; rename it, or choose a "
            "format that keeps it as text: --to coco"
        )
