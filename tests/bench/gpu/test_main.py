"""The GPU check: a section that breaks off leaves what it had, and is no success."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as gpu
from bench.gpu.check import Check, Rows
from bench.gpu.report import write


def broken(check: Check) -> Rows:
    yield {"batch": 1, "images/s": 12.345}
    yield {"batch": 16, "images/s": 1234.5, "p50 ms": None}
    raise RuntimeError("the card is gone")


def sound(check: Check) -> Rows:
    yield {"batch": 1}


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(tmp_path, tmp_path / "model", None, torch.device("cpu"), small=True)


def test_rows_before_a_failure_are_kept(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SECTIONS", {"broken": broken, "sound": sound})
    gpu.run("broken", check)
    kept = json.loads((check.folder / "gpu.json").read_text())["broken"]["rows"]
    assert [row["batch"] for row in kept] == [1, 16]
    gpu.run("sound", check)
    write(check)
    text = (check.folder / "gpu.md").read_text()
    assert "| 16 | 1234 |  |" in text
    assert "error: RuntimeError: the card is gone" in text
    assert "error" not in check.found["sound"]


@pytest.mark.parametrize(("section", "code"), [("broken", 1), ("sound", 0)])
def test_a_failed_section_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, code: int
) -> None:
    monkeypatch.setattr(gpu, "SECTIONS", {"broken": broken, "sound": sound})
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "out"), "--only", section])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == code
