"""Sets of good parts to train on, as folders that `maskline train` reads.

    <root>/<name>/train/good/<SHA-256>.<extension>

A file's name comes from its bytes, so that what a sender called it never reaches the disk and a
copy of an image is the same file. Knows no HTTP and decodes nothing.
"""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from anomaly.folders import is_plain_name
from service.errors import DatasetsFull, DatasetUnknown, FolderRefused, StorageFailed

_GOOD = Path("train/good")
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One set: how many images of how many bytes, and when the last came."""

    name: str
    images: int
    bytes: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Addition:
    """What became of images that were sent: new ones, and those that were there already."""

    dataset: Dataset | None
    added: int
    copies: int


class Datasets:
    """Reads and changes the sets in a folder; every method belongs into a thread."""

    def __init__(self, root: Path, most_bytes: float, roots: Sequence[Path] = ()) -> None:
        self.root = root
        self.most_bytes = most_bytes
        self.roots = tuple(roots)
        self._lock = threading.Lock()

    def all(self) -> list[Dataset]:
        """Return all sets, by name."""
        names = sorted(path.name for path in _folders(self.root) if is_plain_name(path.name))
        sets = (self._read(name) for name in names)
        return [dataset for dataset in sets if dataset is not None]

    def find(self, name: str) -> Dataset:
        """Return one set; raises `DatasetUnknown`."""
        dataset = self._read(name) if is_plain_name(name) else None
        if dataset is None:
            raise DatasetUnknown(
                f"there is no set of good parts {name!r}; POST images to /v1/datasets/{name}"
            )
        return dataset

    def folder(self, name: str) -> Path:
        """Return where a set lies; raises `DatasetUnknown`."""
        return self.root / self.find(name).name

    def allowed_folder(self, path: str) -> Path:
        """Return a folder on this machine that may be read; raises `FolderRefused`.

        Whether one outside of the allowed ones exists is not told.
        """
        try:
            place = Path(os.path.realpath(path)) if Path(path).is_absolute() else None
            if place is not None and any(_is_within(place, root) for root in self.roots):
                if place.is_dir() and os.access(place, os.R_OK | os.X_OK):
                    return place
                raise FolderRefused(f"{path[:200]!r} is no folder that this service can read")
        except (OSError, ValueError):  # a name that no file system takes
            pass
        allowed = ", ".join(str(root) for root in self.roots) or "none"
        raise FolderRefused(
            f"{path[:200]!r} lies in no folder that trainings may read ({allowed}); upload the "
            "images, or add its place to MASKLINE_TRAIN_FOLDERS"
        )

    def add(self, name: str, images: Sequence[bytes]) -> Addition:
        """Add images that can be decoded, all of them or none.

        Raises `DatasetsFull` or `StorageFailed`; nothing has changed then.
        """
        files = {_file_name(image): image for image in images}
        place = self.root / name / _GOOD
        with self._lock, _storage_errors(self.root), self._staging() as staging:
            fresh = {file: data for file, data in files.items() if not (place / file).exists()}
            self._check_room(sum(map(len, fresh.values())))
            for file, data in fresh.items():
                (staging / file).write_bytes(data)
            if fresh:
                place.mkdir(parents=True, exist_ok=True)
            for file in fresh:
                (staging / file).rename(place / file)
        return Addition(self._read(name), len(fresh), len(images) - len(fresh))

    def remove(self, name: str) -> None:
        """Remove a set; raises `DatasetUnknown` or `StorageFailed`."""
        self.find(name)
        with self._lock, _storage_errors(self.root), self._staging() as staging:
            (self.root / name).rename(staging / name)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        self.root.mkdir(parents=True, exist_ok=True)
        for left in self.root.glob(f"{_STAGING}*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=self.root) as staging:
            yield Path(staging)

    def _check_room(self, fresh_bytes: int) -> None:
        taken_bytes = sum(dataset.bytes for dataset in self.all())
        if taken_bytes + fresh_bytes > self.most_bytes:
            raise DatasetsFull(
                f"all sets together may take {self.most_bytes / 1e6:.0f} MB and take "
                f"{taken_bytes / 1e6:.0f}; delete one that is not needed, or raise "
                "MASKLINE_DATASETS_MB"
            )

    def _read(self, name: str) -> Dataset | None:
        place = self.root / name / _GOOD
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            sizes = [entry.stat().st_size for entry in entries if entry.is_file()]
            changed = datetime.fromtimestamp(place.stat().st_mtime, UTC)
            return Dataset(name, len(sizes), sum(sizes), changed)
        return None


def _folders(root: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in root.iterdir() if path.is_dir()]
    return []


def _is_within(place: Path, root: Path) -> bool:
    real = Path(os.path.realpath(root))
    return place == real or real in place.parents


def _file_name(image: bytes) -> str:
    kinds = {b"\xff\xd8": "jpg", b"\x89P": "png", b"BM": "bmp"}
    return f"{hashlib.sha256(image).hexdigest()}.{kinds.get(image[:2], 'tif')}"


@contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"{root} cannot be written to ({error.strerror or error}); nothing was changed. Free "
            "some space, or make the folder writable (MASKLINE_DATASETS_DIR)"
        ) from error
