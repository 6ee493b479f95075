"""Starts a job's process, looks whether it lives, and ends it; see `service.jobs.apart`.

Whether it lives is told by a lock that ends with the last of its processes, also where they are
killed, and that outlives a restart of the service.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from service.jobs import apart

_ROOT = Path(__file__).parents[2]  # the packages lie here, installed or not
_START_S = 60.0


def start(folder: Path, command: Sequence[str], log: Path) -> None:
    """Run a command apart from this process; raises `OSError` or `subprocess.SubprocessError`."""
    for name in ("exit", "process", "progress.json"):
        (folder / name).unlink(missing_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with log.open("ab") as output:
            subprocess.run(
                [sys.executable, "-P", "-m", apart.__name__, str(folder), *command],
                cwd=folder,
                env=_environment() | {apart.LOCK_FD: str(lock)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                check=True,
                timeout=_START_S,
            )
    finally:
        os.close(lock)


def is_alive(folder: Path) -> bool:
    """Whether a process of the job lives."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def exit_code(folder: Path) -> int | None:
    """Return how the job's command ended; None where it runs, or was killed with all around it."""
    with suppress(OSError, ValueError):
        return int((folder / "exit").read_text())
    return None


def send(folder: Path, number: signal.Signals) -> None:
    """Send a signal to all processes of a job that lives."""
    if not is_alive(folder):  # the number may be somebody else's by now
        return
    with suppress(OSError, ValueError):
        os.killpg(int((folder / "process").read_text()), number)


def _environment() -> dict[str, str]:
    """Return the environment without what the service alone is told, such as its database."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("MASKLINE_")
    }
    path = os.pathsep.join(filter(None, (str(_ROOT), inherited.get("PYTHONPATH"))))
    return inherited | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
