import subprocess
import sys
from pathlib import Path

import pytest

import maskline
from tests.cli.conftest import invoke
from tests.conftest import normal_pixels, png


def test_every_command_explains_itself() -> None:
    for command in ("train", "calibrate", "evaluate", "score", "serve", "demo", "doctor"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_our_errors_are_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["maskline", "score", str(tmp_path), "x.png"])
    with pytest.raises(SystemExit) as caught:
        maskline.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error [model_not_found]: no model in")


class Odd(Exception):
    code = 7  # no code of ours, though it is called so


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        RuntimeError("torch says no"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
        UnicodeEncodeError("utf-8", "x", 0, 1, "no"),
        RecursionError(),
        MemoryError(),
        EOFError(),
        AssertionError(),
        KeyError("x"),
        BrokenPipeError(),
        SystemExit(1),
        SystemExit("a library gives up"),
        Odd(),
    ],
    ids=repr,
)
def test_a_fault_of_ours_is_shown_and_never_taken_for_an_ng_part(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise error

    monkeypatch.setattr("training.doctor.examine", broken)
    monkeypatch.setattr("sys.argv", ["maskline", "doctor"])
    with pytest.raises(SystemExit) as caught:
        maskline.main()
    assert caught.value.code == maskline.FAULT
    said = capsys.readouterr().err
    assert "in broken" in said  # the traceback
    assert said.splitlines()[-1].startswith("error [internal]:")


def test_an_interruption_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.doctor.examine", interrupted)
    monkeypatch.setattr("sys.argv", ["maskline", "doctor"])
    with pytest.raises(SystemExit) as caught:
        maskline.main()
    assert caught.value.code == 130


def test_a_reader_that_leaves_ends_a_command_quietly(tiny_folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(png(normal_pixels(i)))
    command = [sys.executable, "-m", "maskline", "score", str(tiny_folder), *map(str, paths)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == maskline.READER_GONE


def test_a_file_that_cannot_be_used_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "set.jsonl").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(
        "sys.argv", ["maskline", "calibrate", str(tmp_path / "file/model"), str(tmp_path)]
    )
    with pytest.raises(SystemExit) as caught:
        maskline.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error [")
