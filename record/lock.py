"""A lock on a file among processes, which ends with its holder's exit, however that comes."""

import fcntl
import os
import socket
import time
from pathlib import Path

_POLL_S = 0.02


class LockHeld(OSError):
    """Somebody else holds the lock, and did for as long as was waited."""


class FileLock:
    """Holds a file locked from `acquire` to `release`; the file says who holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self, timeout_s: float = 0.0) -> None:
        """Lock, waiting no longer than that. Raises `LockHeld`, or `OSError` without locks."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        until = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(_POLL_S)
                    continue
                holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
                os.close(fd)
                raise LockHeld(f"{self._path} is held by {holder or 'another process'}") from None
            except OSError:
                os.close(fd)
                raise
            break
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Unlock, where it is locked."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
