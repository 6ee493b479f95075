"""Replaces a folder as a whole: a reader sees the old one or the new one, never none.

Where the system can exchange two names at once (Linux), it does. Elsewhere two renames are needed;
a process killed between them leaves `.NAME.*.previous`, which `recover` brings back. Files that are
not known to be part of the old folder are carried over.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

_log = logging.getLogger(__name__)
_PREVIOUS = ".previous"
_ABANDONED = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.previous")  # tempfile's eight letters
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def is_plain_name(text: object) -> TypeGuard[str]:
    """Whether a text can name a file in any folder: letters, digits, `._-`, no leading dot."""
    return isinstance(text, str) and _PLAIN.fullmatch(text) is not None


def replace_folder(staging: Path, folder: Path, replaced: Collection[str]) -> None:
    """Put `staging` in the place of `folder` and carry over the old content not in `replaced`.

    The old one is gone afterwards. Raises `OSError`; `folder` is then as it was.
    """
    if not folder.exists() or not any(folder.iterdir()):
        staging.rename(folder)  # over an empty folder, too
        _persist(folder.parent)
        return
    carry_over(folder, staging, replaced)
    _persist(staging)
    old = _swap(staging, folder)
    _persist(folder.parent)
    _carry_late(old, folder, replaced)
    shutil.rmtree(old, ignore_errors=True)


def carry_over(folder: Path, staging: Path, replaced: Collection[str]) -> None:
    """Link (or else copy) a folder's content into another one, except the names in `replaced`."""
    for entry in _foreign_files(folder, replaced):
        target = staging / entry.name
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(str(entry), str(target))


def recover(folder: Path) -> None:
    """Restore a folder if a process was killed while replacing it; one that is there stays."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for left in _left_behind(folder.parent):
        if name_of(left) == folder.name:
            with suppress(OSError):  # another process did it
                left.rename(folder)
                _log.warning("brought back %s, which a killed process had moved away", folder)
            return


def recover_all(parent: Path) -> None:
    """Bring back every folder in `parent` that a process was killed while replacing."""
    for left in _left_behind(parent):
        recover(parent / name_of(left))


def name_of(left: Path) -> str:
    """Return which folder was moved away to this name."""
    match = _ABANDONED.fullmatch(left.name)
    return "" if match is None else match["name"]


def _left_behind(parent: Path) -> list[Path]:
    folders = (path for path in parent.glob(f".*{_PREVIOUS}") if name_of(path) and path.is_dir())
    return sorted(folders, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _swap(staging: Path, folder: Path) -> Path:
    """Put one folder in the place of another; returns where the other is now."""
    if _exchange(staging, folder):
        return staging
    previous = folder.with_name(f"{staging.name}{_PREVIOUS}")
    folder.rename(previous)
    try:
        staging.rename(folder)
    except OSError:
        previous.rename(folder)
        raise
    return previous


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once (renameat2); False where this system or file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(second))


def _carry_late(old: Path, folder: Path, replaced: Collection[str]) -> None:
    """Move over what somebody put into the old folder while the new one was made."""
    for entry in _foreign_files(old, replaced):
        if not os.path.lexists(folder / entry.name):
            entry.rename(folder / entry.name)


def _foreign_files(folder: Path, replaced: Collection[str]) -> Iterator[Path]:
    return (entry for entry in sorted(folder.iterdir()) if entry.name not in replaced)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another owner's, or a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _persist(folder: Path) -> None:
    """Write a folder's names to the disk, where that is possible."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
