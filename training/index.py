"""Millions of files, listed once: their paths in one text file, found by number without reading the rest.

What is listed does not change until it is listed again; a folder that grows is noticed by no one else.
"""

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from anomaly.image import EXTENSIONS
from training.checkpoint import write_whole
from training.data import NORMAL, Sample, open_dataset
from training.errors import DataError

_log = logging.getLogger(__name__)
_FILES = "files.txt"
_OFFSETS = "files.npy"
_ABOUT = "files.json"


class FileIndex(Sequence[Sample]):
    """Normal training images by number, from a listing on disk; only what is asked for is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self.digest: str = about["digest"]
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        with (folder / _FILES).open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[type["FileIndex"], tuple[Path]]:
        """Let a worker process open the files by itself."""
        return FileIndex, (self._folder,)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Read one path, or a slice of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, end = int(self._offsets[index]), int(self._offsets[index + 1]) - 1
        path = Path(os.fsdecode(self._text[start:end]))
        return Sample(path, NORMAL, "train", path.stem)


def indexed(roots: Sequence[Path], folder: Path, *, again: bool = False) -> FileIndex:
    """Return the listing of all images below `roots`, made in `folder` unless it is there.

    A set in MVTec layout or a manifest gives its normal training images alone.
    """
    about = folder / _ABOUT
    wanted = [str(root.absolute()) for root in roots]
    if about.is_file() and not again:
        if json.loads(about.read_text(encoding="utf-8"))["roots"] == wanted:
            return FileIndex(folder)
        _log.info("the listing in %s is of other folders: listing anew", folder)
    _list(roots, wanted, folder)
    return FileIndex(folder)


def _list(roots: Sequence[Path], wanted: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digest, offsets, position = hashlib.sha256(), [0], 0
    staging = folder / f".{_FILES}.tmp"
    with staging.open("wb") as file:
        for root in roots:
            for path in _paths(root):
                line = os.fsencode(path)
                if b"\n" in line:
                    _log.warning("left out, a name with a line break: %r", path)
                    continue
                file.write(line + b"\n")
                digest.update(line + b"\n")
                position += len(line) + 1
                offsets.append(position)
    if len(offsets) == 1:
        raise DataError(f"no images below {', '.join(wanted)}; files read: {', '.join(EXTENSIONS)}")
    # What is about to be replaced is no listing until its description stands again.
    (folder / _ABOUT).unlink(missing_ok=True)
    staging.replace(folder / _FILES)
    np.save(folder / _OFFSETS, np.array(offsets, np.int64))
    about = {"roots": wanted, "digest": digest.hexdigest(), "images": len(offsets) - 1}
    write_whole(folder / _ABOUT, json.dumps(about, indent=2).encode())


def _paths(root: Path) -> Iterator[str]:
    if not root.exists():
        raise DataError(f"{root} does not exist")
    if root.is_file() or (root / "train" / NORMAL).is_dir():
        yield from (str(sample.path) for sample in open_dataset(root).normal("train"))
    else:
        yield from _below(str(root))


def _below(folder: str) -> Iterator[str]:
    """Yield images in a folder and below, each folder's in order of name."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield entry.path


def identity(samples: Sequence[Sample]) -> Any:
    """Return what tells one list of images from another."""
    if isinstance(samples, FileIndex):
        return samples.digest
    return [sample.path.name for sample in samples]
