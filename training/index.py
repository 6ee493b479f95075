"""Millions of files, listed once: one text file of paths, each found by number without the rest.

A listing does not change until it is made again: nothing else notices that a folder grows.
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
from training.data import NORMAL, Sample, training_paths
from training.errors import DataError
from training.identity import names_and_digests
from training.samples import printable

_log = logging.getLogger(__name__)
_FILES = "files.txt"
_OFFSETS = "files.npy"
_ABOUT = "files.json"
_MOST_READ = 10_000
_LISTER = 2  # listings of another version may hold images that must not be trained on


class FileIndex(Sequence[Sample]):
    """Normal training images by number, from a listing on disk; memory holds only those in use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self._listed: str = about["digest"]
        self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
        with (folder / _FILES).open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[type["FileIndex"], tuple[Path]]:
        """Let a worker process open the files by itself."""
        return FileIndex, (self._folder,)

    @property
    def digest(self) -> str:
        """The identity of these images: their paths as listed, and their bytes as they are now.

        Of more than ten thousand, size and time stand for the bytes: reading a million takes an
        epoch's time.
        """
        digest = hashlib.sha256(self._listed.encode())
        if len(self) <= _MOST_READ:
            for _, content in names_and_digests(self):
                digest.update(content.encode() + b"\n")
        else:
            for sample in self:
                digest.update(_state_of(sample.path))
        return digest.hexdigest()

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

    Sets among them, at any depth, and manifests give only their normal training images.
    """
    about = folder / _ABOUT
    listed_roots = [str(root.absolute()) for root in roots]
    if about.is_file() and not again:
        listed = json.loads(about.read_text(encoding="utf-8"))
        if (listed["roots"], listed.get("lister")) == (listed_roots, _LISTER):
            return FileIndex(folder)
        _log.info("the listing in %s is of other folders, or an old one: listing anew", folder)
    _list(roots, listed_roots, folder)
    return FileIndex(folder)


def _list(roots: Sequence[Path], listed_roots: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digest, offsets, position = hashlib.sha256(), [0], 0
    staging = folder / f".{_FILES}.tmp"
    with staging.open("wb") as file:
        for root in roots:
            for path in _paths(root):
                line = os.fsencode(path)
                if b"\n" in line:
                    _log.warning("left out, a name with a line break: %r", printable(path))
                    continue
                file.write(line + b"\n")
                digest.update(line + b"\n")
                position += len(line) + 1
                offsets.append(position)
    if len(offsets) == 1:
        raise DataError(
            f"no images below {', '.join(listed_roots)}; files read: {', '.join(EXTENSIONS)}"
        )
    # A listing that is being replaced is not valid until its description is written again.
    (folder / _ABOUT).unlink(missing_ok=True)
    staging.replace(folder / _FILES)
    np.save(folder / _OFFSETS, np.array(offsets, np.int64))
    about = {
        "lister": _LISTER,
        "roots": listed_roots,
        "digest": digest.hexdigest(),
        "images": len(offsets) - 1,
    }
    write_whole(folder / _ABOUT, json.dumps(about, indent=2).encode())


def _paths(root: Path) -> Iterator[str]:
    yield from map(str, training_paths(root))


def _state_of(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:
        return b"missing\n"
    return b"%d %d\n" % (status.st_size, status.st_mtime_ns)


def identity(samples: Sequence[Sample]) -> Any:
    """Return what tells one list of images from another."""
    return samples.digest if isinstance(samples, FileIndex) else names_and_digests(samples)
