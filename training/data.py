"""Where images come from: MVTec layout, a plain folder, or a JSON-Lines manifest.

Everything becomes a list of `Sample`s with a split, so that the rest of the pipeline never looks at
folders. Unreadable files are an error that names them; skipping them is the caller's explicit wish.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly.errors import ImageError
from anomaly.image import EXTENSIONS, decode_image
from anomaly.types import RgbImage
from training.errors import DataError

_log = logging.getLogger(__name__)

NORMAL = "good"
SPLITS = ("train", "validation", "test")
_VALIDATION_SHARE = 0.2
_MANIFEST_KEYS = {"image", "label", "mask", "split", "session"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a set: `label` is `good` or the kind of defect, `session` its lot or part."""

    path: Path
    label: str
    split: str
    session: str
    mask: Path | None = None

    @property
    def is_normal(self) -> bool:
        """Whether the image shows a good part."""
        return self.label == NORMAL


@dataclass(frozen=True, slots=True)
class Dataset:
    """All samples of a set, in a fixed order."""

    root: Path
    samples: tuple[Sample, ...]

    def select(self, split: str) -> list[Sample]:
        """Return the samples of one split."""
        return [sample for sample in self.samples if sample.split == split]

    def normal(self, split: str) -> list[Sample]:
        """Return the good parts of one split."""
        return [sample for sample in self.select(split) if sample.is_normal]


def open_dataset(data: Path) -> Dataset:
    """Read a set of any layout.

    A set without a validation split gives up a fifth of its training sessions for one. Raises
    `DataError` when there is nothing to read, or a mask without its image.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist")
    if data.is_file():
        samples = _manifest(data)
    elif (data / "train" / NORMAL).is_dir():
        samples = _mvtec(data)
    else:
        samples = _plain(data)
    if not samples:
        wanted = ", ".join(EXTENSIONS)
        raise DataError(
            f"no images in {data}; want train/good/ (MVTec layout), images in the folder itself, or "
            f"a .jsonl manifest. Files read: {wanted}"
        )
    return Dataset(data, tuple(_with_validation(samples)))


def normal_images(data: Path) -> list[Sample]:
    """Return images to calibrate on: the validation split of a set, or a plain folder's all."""
    if not data.is_dir() or (data / "train" / NORMAL).is_dir():
        return open_dataset(data).normal("validation")
    samples = _plain(data)
    if not samples:
        raise DataError(f"no images in {data}; want a folder of held-out normal images")
    return samples


def read_images(
    samples: Sequence[Sample],
    *,
    canvas: int | None = None,
    skip_unreadable: bool = False,
    threads: int = 2,
) -> Iterator[tuple[Sample, RgbImage]]:
    """Decode samples in order, a few ahead. Unreadable ones raise `DataError`, or are skipped.

    `canvas` as in `decode_image`: whole images without it.
    """
    read = partial(_read, canvas=canvas)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), 16):
            chunk = samples[start : start + 16]
            for sample, result in zip(chunk, pool.map(read, chunk), strict=True):
                if isinstance(result, RgbImage):
                    yield sample, result
                elif skip_unreadable:
                    _log.warning("skipped %s: %s", sample.path, result)
                else:
                    raise DataError(
                        f"{sample.path} cannot be read: {result}. Remove or replace it, or pass "
                        "--skip-unreadable"
                    )


def read_mask(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Read a sample's ground truth, (H, W) bool; all false for a normal image."""
    if sample.mask is None:
        return np.zeros(size, bool)
    mask = cv2.imdecode(np.frombuffer(sample.mask.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"the mask {sample.mask} cannot be read")
    if mask.shape != size:
        raise DataError(
            f"the mask {sample.mask} is {mask.shape[1]}×{mask.shape[0]} px, its image "
            f"{size[1]}×{size[0]} px; they must be of one size"
        )
    return mask > 0


def _read(sample: Sample, canvas: int | None) -> RgbImage | ImageError | OSError:
    try:
        return decode_image(sample.path.read_bytes(), canvas=canvas)
    except (ImageError, OSError) as error:
        return error


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _plain(folder: Path) -> list[Sample]:
    return [Sample(path, NORMAL, "train", path.stem) for path in _files(folder)]


def _mvtec(root: Path) -> list[Sample]:
    samples = [
        Sample(path, NORMAL, split, path.stem)
        for split in ("train", "validation")
        for path in _files(root / split / NORMAL)
    ]
    kinds = (
        sorted(p.name for p in (root / "test").iterdir() if p.is_dir())
        if (root / "test").is_dir()
        else []
    )
    for kind in kinds:
        for path in _files(root / "test" / kind):
            mask = None if kind == NORMAL else _mask_of(root, kind, path)
            samples.append(Sample(path, kind, "test", path.stem, mask))
    _refuse_orphan_masks(root, samples)
    return samples


def _mask_of(root: Path, kind: str, image: Path) -> Path | None:
    folder = root / "ground_truth" / kind
    candidates = (folder / f"{image.stem}_mask.png", folder / f"{image.stem}.png")
    return next((path for path in candidates if path.is_file()), None)


def _refuse_orphan_masks(root: Path, samples: Sequence[Sample]) -> None:
    used = {sample.mask for sample in samples}
    for mask in sorted((root / "ground_truth").glob("*/*.png")):
        if mask not in used:
            stem = mask.stem.removesuffix("_mask")
            raise DataError(
                f"the mask {mask} has no image; expected test/{mask.parent.name}/{stem}.*"
            )


def _manifest(path: Path) -> list[Sample]:
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            samples.append(_manifest_sample(path, number, line))
    return samples


def _manifest_sample(path: Path, number: int, line: str) -> Sample:
    where = f"{path}, line {number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict) or "image" not in row:
        raise DataError(f"{where} lacks 'image'")
    if unknown := row.keys() - _MANIFEST_KEYS:
        raise DataError(
            f"{where} has the unknown key {min(unknown)!r}; known: {sorted(_MANIFEST_KEYS)}"
        )
    image, mask = path.parent / row["image"], row.get("mask")
    split = row.get("split", "train")
    if split not in SPLITS:
        raise DataError(f"{where} has the split {split!r}; want one of {SPLITS}")
    for file in filter(None, (image, mask and path.parent / mask)):
        if not file.is_file():
            raise DataError(f"{where} names {file}, which is not a file")
    return Sample(
        image,
        row.get("label", NORMAL),
        split,
        str(row.get("session", image.stem)),
        path.parent / mask if mask else None,
    )


def _with_validation(samples: Sequence[Sample]) -> list[Sample]:
    """Move every fifth training session to validation when there is none."""
    if any(sample.split == "validation" for sample in samples):
        return list(samples)
    train = [s for s in samples if s.split == "train"]
    sessions = sorted({sample.session for sample in train})
    if len(sessions) < 2:
        raise DataError(
            f"{len(train)} training image(s) of one session: too few to train and to calibrate on "
            "others; collect at least a few dozen normal images"
        )
    order = np.random.default_rng(0).permutation(len(sessions))
    held_out = {sessions[i] for i in order[: max(1, round(_VALIDATION_SHARE * len(sessions)))]}
    return [
        replace(s, split="validation") if s.split == "train" and s.session in held_out else s
        for s in samples
    ]
