"""Runs a command apart from whoever started it, and leaves in files how it ended.

`python -m service.jobs.apart FOLDER COMMAND…`, with the locked file LOCK_FD names inherited. The
starter's process returns at once. The command runs in a session of its own, niced, and is the first
that the system ends where memory runs out. Its group's id goes to FOLDER/process before the starter
returns, its exit code to FOLDER/exit, negative for a signal. While any process of it lives, the
lock is held: that, and no number of a process, says that it runs.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

LOCK_FD = "JOB_LOCK_FD"
_NICER = 10
_FIRST_TO_END = "800"  # of -1000 to 1000


def main(folder: Path, command: list[str]) -> None:
    """Leave the starter behind, run the command, and write its exit code."""
    lock = int(os.environ.pop(LOCK_FD))
    if group := os.fork():
        _write(folder / "process", str(group))
        os._exit(0)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave_to_command)  # a handler, unlike SIG_IGN, is not inherited
    os.nice(_NICER)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_END)
    try:
        code = subprocess.run(command, pass_fds=(lock,), check=False).returncode
    except OSError as error:
        print(f"error [training_unstartable]: {error}", file=sys.stderr)  # noqa: T201
        code = 127
    _write(folder / "exit", str(code))


def _leave_to_command(number: int, frame: FrameType | None) -> None:
    """Live on to write how the command took the signal, which its whole group gets."""


def _write(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.new")
    staging.write_text(text)
    staging.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
