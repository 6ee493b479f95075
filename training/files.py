"""A folder and all below it, listed once: images, other files, and what is left out, by kind.

Hidden files and what operating systems leave behind (`._x.png`, `Thumbs.db`, `@eaDir`) are never
images. Links are followed, but no folder is entered twice.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anomaly.image import EXTENSIONS
from training.errors import DataError
from training.samples import printable

_SYSTEM_NAMES = (
    "thumbs.db|ehthumbs.db|desktop.ini|@eadir|__macosx|$recycle.bin|#recycle|lost+found|"
    "system volume information"
)
_SYSTEM = frozenset(_SYSTEM_NAMES.split("|"))
_OTHER_IMAGES_NAMES = (
    ".webp .gif .heic .heif .avif .jp2 .j2k .jpx .jxl .jfif .jpe .pgm .ppm .pbm .pnm .exr .hdr "
    ".tga .dng .cr2 .cr3 .nef .arw .orf .rw2 .psd .svg .ico .dcm .apng"
)
_OTHER_IMAGES = frozenset(_OTHER_IMAGES_NAMES.split())
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder: its image names, the names of its other files, its folders, each in order."""

    path: Path
    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple["Folder", ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    def below(self) -> Iterator[Path]:
        """Yield all images in it and below."""
        yield from (self.path / name for name in self.images)
        for folder in self.folders:
            yield from folder.below()

    @property
    def has_images(self) -> bool:
        """Whether there is an image in it or below."""
        return bool(self.images) or any(folder.has_images for folder in self.folders)


def read_tree(root: Path, left_out: Counter[str]) -> Folder:
    """List a folder and all below it. Raises `DataError` where it cannot be read."""
    return _folder(root, left_out, set(), 0)


def _folder(
    path: Path, left_out: Counter[str], entered: set[tuple[int, int]], depth: int
) -> Folder:
    if depth > _DEEPEST:
        raise DataError(f"{printable(path)} lies more than {_DEEPEST} folders deep; move it up")
    try:
        status = path.stat()
        entered.add((status.st_dev, status.st_ino))
        with os.scandir(path) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {printable(path)} cannot be read: {error.strerror}") from error
    images, others, folders = [], [], []
    for entry in entries:
        mode = _mode(entry)
        if (kind := _never_read(entry.name)) is not None:
            left_out[kind] += 1
        elif stat.S_ISDIR(mode):
            if _is_new(entry, entered, left_out):
                folders.append(_folder(path / entry.name, left_out, entered, depth + 1))
        elif not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            left_out["special files"] += 1
        elif entry.name.lower().endswith(EXTENSIONS):
            images.append(entry.name)  # a link that leads nowhere too: reading it will say so
        else:
            others.append(entry.name)
            left_out[kind_of(entry.name)] += 1
    return Folder(path, tuple(images), tuple(others), tuple(folders))


def _mode(entry: "os.DirEntry[str]") -> int:
    """What an entry is, or what it links to; a link that leads nowhere is a link."""
    try:
        return entry.stat().st_mode
    except OSError:
        return stat.S_IFLNK


def _never_read(name: str) -> str | None:
    if name.lower() in _SYSTEM:
        return "system files"
    return "hidden files" if name.startswith(".") else None


def _is_new(
    entry: "os.DirEntry[str]", entered: set[tuple[int, int]], left_out: Counter[str]
) -> bool:
    status = entry.stat()
    if (status.st_dev, status.st_ino) in entered:
        left_out["folders reached twice by links"] += 1
        return False
    return True


def kind_of(name: str) -> str:
    """Name the kind of a file that is not read."""
    suffix = Path(name).suffix.lower()
    if suffix in _OTHER_IMAGES:
        return f"{printable(suffix)} (images of a kind that is not read)"
    return f"{printable(suffix)} files" if suffix else "files without extension"
