"""Ground truth to images: which mask belongs to which image, and what is missing.

A mask has its image's name, or that name with `_mask`, `_GT` or `_label` appended, in any format;
or it is a folder of that name with several pictures (MVTec LOCO). A mask without its image is an
error: one of the two is misnamed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from anomaly.errors import ImageError
from anomaly.image import EXTENSIONS, decode_mask
from training.errors import DataError
from training.files import Folder
from training.labels import is_normal_name
from training.samples import Sample, few_of, printable

_ENDINGS = ("_mask", "_gt", "_label", "_ground_truth", "-mask", "-gt", "-label", "")
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask file or folder; `keys` are image names below their kind that it may belong to."""

    path: Path
    keys: tuple[str, ...]


def with_masks(samples: Sequence[Sample], kind: Folder, truth: Folder | None) -> list[Sample]:
    """Give one defect kind's images their masks from the ground-truth folder beside them."""
    folder = None if truth is None else _of_kind(truth, kind.name)
    if folder is None:
        return list(samples)
    by_key: dict[str, Path] = {}
    for mask in _masks(folder, folder.path):
        for key in mask.keys:
            by_key.setdefault(key, mask.path)
    return [replace(s, mask=by_key.get(_key(s.path, kind.path))) for s in samples]


def check_masks(samples: Sequence[Sample], truth: Folder) -> None:
    """Raise `DataError` where a mask belongs to no image, or to two."""
    owners: dict[Path, Sample] = {}
    for sample in samples:
        if sample.mask is not None and owners.setdefault(sample.mask, sample) is not sample:
            other = owners[sample.mask]
            raise DataError(
                f"the mask {printable(sample.mask)} fits both {printable(other.name)} and "
                f"{printable(sample.name)}; put masks into a folder for each kind of defect"
            )
    for path in (p for folder in _of_defects(truth) for p in folder):
        if path not in owners and path.parent not in owners:
            kind = "" if path.parent == truth.path else f"{printable(path.parent.name)}/"
            raise DataError(
                f"the mask {printable(path)} has no image; expected "
                f"test/{kind}{printable(_bare(path.stem))}.*, "
                "and one mask for each image"
            )


def _of_defects(truth: Folder) -> Iterator[Iterator[Path]]:
    yield (truth.path / name for name in truth.images)
    for folder in truth.folders:
        if not is_normal_name(folder.name):
            yield folder.below()


def said_of_masks(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield notes on a set's masks: kinds that lack some, and lossy ones."""
    bad = [sample for sample in samples if sample.split == "test" and not sample.is_normal]
    if any(sample.mask for sample in bad):
        for label in sorted({sample.label for sample in bad}):
            of_kind = [sample for sample in bad if sample.label == label]
            without = [printable(sample.name) for sample in of_kind if sample.mask is None]
            if without:
                yield (
                    f"{len(without)} of {len(of_kind)} images of {printable(label)} have no mask "
                    f"({few_of(without)}): figures of pixels leave them out"
                )
    lossy = sum(s.mask is not None and s.mask.suffix.lower() in _LOSSY for s in samples)
    if lossy:
        yield f"{lossy} masks are JPEG files: compression blurs their edges, so use PNG"


def read_mask(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Read a sample's ground truth, (H, W) bool; all false for a normal image."""
    marked = np.zeros(size, bool)
    for path in mask_files(sample):
        mask = read_pixels(path)
        if mask.shape != size:
            raise _size_error(path, mask.shape, size)
        marked |= mask
    return marked


def mask_files(sample: Sample) -> list[Path]:
    """Return the pictures that make up a sample's ground truth."""
    if sample.mask is None:
        return []
    if not sample.mask.is_dir():
        return [sample.mask]
    files = (path for path in sample.mask.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in EXTENSIONS)


def check_mask_sizes(samples: Sequence[Sample]) -> None:
    """Raise `DataError` if, by the headers, a mask is no picture or differs from its image in size.

    An image's header that cannot be read is left to whoever reads its pixels.
    """
    for sample in samples:
        size = header_size(sample.path) if sample.mask is not None else None
        for path in mask_files(sample):
            mask_size = header_size(path)
            if mask_size is None:
                raise _unreadable(path)
            if size is not None and mask_size != size:
                raise _size_error(path, mask_size, size)


def _size_error(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> DataError:
    return DataError(
        f"the mask {printable(path)} is {mask[1]}×{mask[0]} px, its image {image[1]}×{image[0]} "
        "px; they must be of one size"
    )


def header_size(path: Path) -> tuple[int, int] | None:
    """(H, W) of a picture turned upright, without its pixels; None where that cannot be read."""
    try:
        with Image.open(path) as picture:
            size = (picture.height, picture.width)
            # Pillow would inflate a whole PNG to look for orientation behind its pixels.
            has_exif = picture.format != "PNG" or "exif" in picture.info
            turned = has_exif and picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return size[::-1] if turned else size
    except Exception:  # noqa: BLE001  Pillow's decoders raise whatever they like on a damaged file
        return None


def read_pixels(path: Path) -> NDArray[np.bool_]:
    """Decode a mask to (H, W), true where it marks; raises `DataError`."""
    try:
        return decode_mask(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DataError(
            f"the mask {printable(path)} cannot be read: {error}. Replace it, or remove it"
        ) from error


def _unreadable(path: Path) -> DataError:
    return DataError(f"the mask {printable(path)} cannot be read; replace it, or remove it")


def _of_kind(truth: Folder, kind: str) -> Folder | None:
    """Return the folder of one kind's masks, or all of it if masks of all kinds lie together."""
    for folder in truth.folders:
        if folder.name.casefold() == kind.casefold():
            return folder
    return truth if truth.images else None


def _masks(folder: Folder, root: Path) -> Iterator[Mask]:
    for name in folder.images:
        yield Mask(folder.path / name, _keys(folder.path / name, root))
    for below in folder.folders:
        if below.images and not below.folders:
            yield Mask(below.path, _keys(below.path, root, is_folder=True))
        yield from _masks(below, root)


def _keys(path: Path, root: Path, *, is_folder: bool = False) -> tuple[str, ...]:
    key = (path if is_folder else path.with_suffix("")).relative_to(root).as_posix().casefold()
    endings = (ending for ending in _ENDINGS if key.endswith(ending))
    return tuple(key.removesuffix(ending) for ending in endings)


def _key(image: Path, root: Path) -> str:
    return image.with_suffix("").relative_to(root).as_posix().casefold()


def _bare(stem: str) -> str:
    ending = next(ending for ending in _ENDINGS if stem.casefold().endswith(ending))
    return stem[: len(stem) - len(ending)]
