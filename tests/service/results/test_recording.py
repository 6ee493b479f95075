"""One service at a time writes into a record."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import StartError
from service.metrics import Metrics
from service.results.recording import Recording

_HOLD = """
import sys; from pathlib import Path; from record.lock import FileLock
FileLock(Path(sys.argv[1])).acquire(); print("held", flush=True); sys.stdin.read()
"""


def test_a_second_service_on_the_same_record_does_not_start(tmp_path: Path) -> None:
    first = Recording(tmp_path, None, Metrics())
    with pytest.raises(StartError, match=r"process .* MASKLINE_RECORD_DIR") as caught:
        Recording(tmp_path, None, Metrics())
    assert caught.value.code == "record_in_use"
    Recording(tmp_path / "another", f"sqlite:///{tmp_path / 'results.db'}", Metrics()).close()
    first.close()
    Recording(tmp_path, None, Metrics()).close()


def test_a_killed_service_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "journal/lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartError, match=f"process {holder.pid} on"):
            Recording(tmp_path, None, Metrics())
        holder.kill()
    Recording(tmp_path, None, Metrics()).close()
