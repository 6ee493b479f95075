"""How a set of labels is written: beside its place, then swapped in as a folder."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from anomaly.folders import replace_folder
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookup import leads_out
from training.annotations.shapes import Mask
from training.errors import DataError, NotWritten
from training.outputs import check_new_folder, check_own_folder
from training.samples import printable

MARKER = ".maskline-labels"

Write = Callable[[LabelSet, Path], None]


def write_folder(
    write: Write, labels: LabelSet, target: Path, *, source: Path, force: bool
) -> None:
    """Write labels into a folder that appears when all is there.

    An existing folder is refused; with `force` it is replaced if a conversion wrote it. Raises
    `OutputRefused`, `DataError` or `NotWritten`; what stood there before is then untouched.
    """
    reads = [source, *{image.path.parent for image in labels.images}]
    if force:
        check_own_folder(target, MARKER, reads)
    else:
        check_new_folder(target, reads)
    place = Path(os.path.realpath(target))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            (staging / MARKER).touch()
            write(labels, staging)
            staging.chmod(0o755)
            names = [entry.name for entry in place.iterdir()] if place.is_dir() else []
            replace_folder(staging, place, names)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise NotWritten(
            f"{printable(target)} could not be written: {error.strerror or error}. Nothing was "
            "changed there; free some space, or choose another folder"
        ) from error


def place_image(image: Path, target: Path) -> None:
    """Link an image to another place, or else copy it; its bytes stay as they are."""
    _make_parent(target)
    try:
        os.link(os.path.realpath(image), target)
    except FileExistsError as error:
        raise DataError(
            f"two images would both be {printable(target.name)} in {printable(target.parent.name)}/"
            f"; rename {printable(image)}"
        ) from error
    except OSError:  # another file system, another owner's, or one without links
        shutil.copy2(image, target)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file."""
    _make_parent(path)
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def write_png(path: Path, pixels: Any) -> None:
    """Write pixels, grey or RGB, as PNG."""
    _make_parent(path)
    path.write_bytes(png_of(pixels))


def png_of(pixels: Any) -> bytes:
    """Encode pixels, (H, W) or RGB (H, W, 3), as PNG."""
    is_done, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    if not is_done:
        raise NotWritten(f"a mask of {pixels.shape[1]}×{pixels.shape[0]} px cannot be PNG")
    return data.tobytes()


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as PNG, 255 where it marks."""
    write_png(path, mask.astype("uint8") * 255)


def marked(instance: Instance, image: LabelledImage) -> Mask:
    """Return the pixels of an instance, where a format has no other way to say what it covers."""
    pixels = instance.pixels(image.size)
    if not pixels.any():
        raise DataError(
            f"{image.name} has a region of {instance.kind[:80]!r} so thin that it covers no pixel, "
            "which the format cannot hold; remove it, or choose --to coco"
        )
    return pixels


def plain_name(name: str) -> str:
    """Return an image's name, which must be a path that stays below any folder."""
    if leads_out(name) or not name:
        raise DataError(f"the image name {name[:80]!r} leads out of the set; rename it")
    return name


def rounded(value: float) -> float:
    """Return a coordinate with as many digits as matter, whole numbers as such."""
    result = round(value, 4)
    return int(result) if result == int(result) else result


def _make_parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
