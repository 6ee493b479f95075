"""Which file an annotation means by an image's name: below the set, and nowhere else."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from anomaly.image import EXTENSIONS
from training.annotations.labelled import LabelledImage
from training.annotations.reading import brief
from training.errors import DataError
from training.samples import printable
from training.truth import header_size

_ELSEWHERE = re.compile(r"[A-Za-z]:[/\\]|[A-Za-z][\w+.-]*://")  # a drive, a URI
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # that Label Studio puts before names


@dataclass(slots=True)
class Images:
    """Finds the images that annotations name, below some folders, in their order."""

    folders: tuple[Path, ...]
    is_explicit: bool = False  # --images was given: foreign paths are looked up by their tail
    used: dict[str, str] = field(default_factory=dict)  # where a file was named, by its path

    @classmethod
    def beside(cls, folder: Path, images: Path | None) -> "Images":
        """Look below `images`, or else where tools put them beside their file."""
        if images is None:
            return cls((folder / "images", folder, folder.parent / "images", folder.parent))
        if not images.is_dir():
            raise DataError(f"{printable(images)} is no folder; name the one that holds the images")
        return cls((images, images / "images"), is_explicit=True)

    def open(self, name: object, where: str, declared: tuple[int, int] | None = None) -> "Opened":
        """Find an image by a path below the set, and read its size.

        A path that leads out of the set is followed only by its tail, and only where `--images`
        says below which folder.
        """
        text = self._text(name, where)
        if leads_out(text):
            if not self.is_explicit:
                raise DataError(
                    f"{where} names the image {brief(text)}, which leads out of the set; say where "
                    "the images lie: --images FOLDER"
                )
            return self.open_tail(text, where, declared)
        return self._opened(text, [text], where, declared)

    def open_tail(
        self, uri: object, where: str, declared: tuple[int, int] | None = None
    ) -> "Opened":
        """Find an image by the end of a foreign path or URI, the longest that exists."""
        parts = [
            part
            for part in self._text(uri, where).replace("\\", "/").split("/")
            if part not in ("", ".", "..") and not part.endswith(":")
        ]
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        if tails and (bare := _UPLOAD_PREFIX.sub("", tails[-1], count=1)) != tails[-1]:
            tails.append(bare)
        return self._opened(str(uri), tails, where, declared)

    def _text(self, name: object, where: str) -> str:
        if not isinstance(name, str) or not name.strip() or "\0" in name or printable(name) != name:
            raise DataError(f"{where} names the image {brief(name)}; want the path of a file")
        return name

    def _opened(
        self, text: str, names: Sequence[str], where: str, declared: tuple[int, int] | None
    ) -> "Opened":
        for folder in self.folders:
            for name in names:
                if _is_file(folder / name):
                    relative = PurePosixPath(name.replace("\\", "/")).as_posix()
                    return self._checked(folder / name, relative, where, declared)
        places = ", ".join(dict.fromkeys(str(printable(folder)) for folder in self.folders))
        raise DataError(
            f"{where} names the image {brief(text)}, which is not below {places}; put it there, or "
            "say where the images lie: --images FOLDER"
        )

    def _checked(
        self, path: Path, name: str, where: str, declared: tuple[int, int] | None
    ) -> "Opened":
        if self.used.setdefault(os.path.realpath(path), where) != where:
            raise DataError(
                f"{where} and {self.used[os.path.realpath(path)]} name the same image "
                f"{brief(name)}; every image counts once: remove or rename it"
            )
        return Opened(path, name, measured(path, where, declared))


@dataclass(frozen=True, slots=True)
class Opened:
    """An image that was looked up: its file, its name below the set, its size (H, W)."""

    path: Path
    name: str
    size: tuple[int, int]

    def labelled(self, *, split: str = "", **labels: Any) -> LabelledImage:
        """Make a labelled image of it."""
        return LabelledImage(self.path, self.name, self.size, split=split, **labels)


def measured(path: Path, where: str, declared: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size (H, W) of an image, which must be the one that the annotations say."""
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(
            f"{where} names {printable(path)}, which is not read as an image; convert it to one of "
            f"{', '.join(EXTENSIONS)}"
        )
    size = header_size(path)
    if size is None:
        raise DataError(
            f"{where}: the image {printable(path)} cannot be read; replace or remove it"
        )
    if declared is not None and declared != size:
        raise DataError(
            f"{where} says {declared[1]}×{declared[0]} px, but {printable(path)} has "
            f"{size[1]}×{size[0]} px; it was annotated in another size: use the image that was "
            "annotated"
        )
    return size


def leads_out(name: str) -> bool:
    """Whether a path is absolute, a URI, or leads upwards."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(_ELSEWHERE.match(name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or characters that no file name has
        return False
