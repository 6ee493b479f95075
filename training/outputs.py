"""Where a command may write: checked before any work, so that it replaces only what is ours.

Every output path of every command goes through one of these functions. Links are followed. A folder
may be written to when it is new, empty or ours; a file when it is new or ours.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from anomaly.bundle import is_model, model_place
from anomaly.errors import OutputRefused
from anomaly.manifest import ANOMALY, kind_of

_LONGEST_NAME = 200  # bytes; while it is written, a folder's name is longer by 20
_SHOWN_BYTES = 4096  # at each end of a file
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_SHORT = 60  # characters of a text that a file name shows
# The files by which we know folders that we made.
HEATMAPS, REPORT, SWEEP, DEMO = (
    f".maskline-{name}" for name in ("heatmaps", "report", "sweep", "demo")
)
_RUN_FILES = ("log.jsonl", "checkpoint.safetensors", "files.json", "plan.json", "tensorboard")


def check_model(out: Path, reads: Iterable[Path], kind: str = ANOMALY) -> None:
    """Refuse a place for a model that holds something else, or the data that are read.

    Raises `OutputRefused`, as all functions here do.
    """
    place = model_place(out, kind)
    _check_name(place)
    if place.name.startswith("."):
        raise OutputRefused(f"{out} is a hidden folder, which is not served; choose another name")
    _check_apart(out, place, reads)
    if place == Path.cwd():
        raise OutputRefused(
            f"{out} is the folder you are in, which would be exchanged; go one up and name it"
        )
    _check_writable(out, place.parent)


def check_changed_model(model: Path) -> None:
    """Refuse a model that cannot be changed in place; a folder that is no model fails later."""
    place = Path(os.path.realpath(model))
    if is_model(place):
        check_model(model, (), kind_of(place))


def check_run(folder: Path) -> None:
    """Refuse the folder of a training's log and checkpoint where it holds something else."""
    _check_folder(folder, lambda place: any((place / name).exists() for name in _RUN_FILES))


def check_new_folder(out: Path, reads: Iterable[Path]) -> None:
    """Refuse a folder that is not new or empty."""
    _check_folder(out, lambda place: False)
    _check_apart(out, _real(out), reads)


def check_own_folder(out: Path, marker: str, reads: Iterable[Path]) -> None:
    """Refuse a folder that is not new or empty, unless it has the file by which we know our own."""
    _check_folder(out, lambda place: (place / marker).is_file())
    _check_apart(out, _real(out), reads)


def check_own_file(out: Path, is_ours: Callable[[bytes], bool]) -> None:
    """Refuse an existing file that is not ours; `is_ours` sees its first and last 4096 bytes."""
    place = _real(out)
    _check_name(place)
    if place.is_dir():
        raise OutputRefused(f"{out} is a folder; name a file")
    if os.path.lexists(place):
        if not place.is_file():
            raise OutputRefused(f"{out} is no regular file; choose another")
        ends = _ends(place)
        if ends and not is_ours(ends):
            raise OutputRefused(
                f"{out} is there and was not written by this command; it stays as it is, choose "
                "another name"
            )
        if not os.access(place, os.W_OK):
            raise OutputRefused(f"{out} cannot be written to; make it writable or choose another")
    _check_writable(out, place.parent)


def file_name(*texts: str) -> str:
    """Return a file name that is safe anywhere, and another one for any other texts.

    It shows the safe characters of the last text; a digest of all texts makes it unique, also on
    file systems that ignore case.
    """
    path_text = "\0".join(f"{len(text)}:{text}" for text in texts)
    digest = hashlib.sha256(path_text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = "_".join(_UNSAFE.sub("_", text)[:_SHORT].strip("_-") for text in texts[-2:])
    return f"{readable.strip('_') or 'image'}-{digest}"


def claim(folder: Path, marker: str) -> None:
    """Make a folder with the file in it by which we know it as ours."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).touch()


def _check_folder(out: Path, is_ours: Callable[[Path], bool]) -> None:
    place = _real(out)
    _check_name(place)
    if os.path.lexists(place):
        if not place.is_dir():
            raise OutputRefused(f"{out} is a file; name a folder")
        if any(place.iterdir()) and not is_ours(place):
            raise OutputRefused(
                f"{out} holds something that this command did not write, and stays as it is; "
                "choose a new folder"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputRefused(f"{out} cannot be written to; make it writable or choose another")
    _check_writable(out, place.parent)


def _check_apart(out: Path, place: Path, reads: Iterable[Path]) -> None:
    """Refuse a folder that is or holds an input, or lies within an input folder."""
    for read in reads:
        source = _real(read)
        if place == source or place in source.parents:
            raise OutputRefused(f"{out} holds what is read from {read}; choose another folder")
        if source.is_dir() and source in place.parents:
            raise OutputRefused(
                f"{out} lies within {read}, which is read: the next run would take what is written "
                "there for data. Choose a folder beside it"
            )


def _check_name(place: Path) -> None:
    if len(os.fsencode(place.name)) > _LONGEST_NAME or not place.name:
        raise OutputRefused(
            f"{str(place)[:80]!r} is no usable name; choose one of 1 to {_LONGEST_NAME} bytes"
        )


def _check_writable(out: Path, parent: Path) -> None:
    """Refuse a place whose nearest existing parent is a file or cannot be written to."""
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputRefused(
            f"{out} cannot be made: {parent} is not a folder that can be written to"
        )


def _ends(place: Path) -> bytes:
    with place.open("rb") as file:
        head = file.read(_SHOWN_BYTES)
        file.seek(max(len(head), place.stat().st_size - _SHOWN_BYTES))
        return head + file.read()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
