import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import maskline
from tests.conftest import TINY, normal_pixels, planted, png


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(maskline.app, [str(a) for a in arguments])


def overrides(*more: str) -> list[str]:
    return [word for override in (*TINY, *more) for word in ("--set", override)]


def test_every_command_explains_itself() -> None:
    for command in ("train", "calibrate", "evaluate", "score", "serve", "demo", "doctor"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_train_calibrate_evaluate_score_in_a_row(tiny_data: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    trained = invoke("train", tiny_data, "--out", model, *overrides(), "--no-calibrate")
    assert trained.exit_code == 0, trained.output
    assert "not calibrated yet: maskline calibrate" in trained.output
    calibrated = invoke("calibrate", model, tiny_data, "--false-alarm-rate", 0.05, "--json")
    assert calibrated.exit_code == 0, calibrated.output
    values = json.loads(calibrated.stdout)
    assert values["groups"] == 40
    assert values["is_certified"] is True
    (tmp_path / "roi.json").write_text('{"ignore": [[[0, 0], [0.1, 0], [0, 0.1]]]}')
    region = ("--roi", tmp_path / "roi.json", "--warn-rate", 0.2, "--camera", "side")
    said = invoke("calibrate", model, tiny_data, "--false-alarm-rate", 0.05, *region)
    assert "The threshold before was" not in said.output  # it was one of the whole image
    assert "judged without itself" in said.output
    refused = invoke("calibrate", model, tiny_data, "--warn-rate", 0.001)
    assert getattr(refused.exception, "code", None) == "calibration_impossible"
    evaluated = invoke("evaluate", model, tiny_data, "--json", "-")
    assert json.loads(evaluated.stdout)["image_AUROC"] > 0.9
    table = invoke("evaluate", model, tiny_data, "--report", tmp_path / "report")
    assert "image_AUROC" in table.output
    assert (tmp_path / "report/report.html").is_file()
    (tmp_path / "bad.png").write_bytes(png(planted(normal_pixels(1), 60, 40, 12)))
    scored = invoke("score", model, tmp_path / "bad.png", "--json")
    assert scored.exit_code == 1
    assert json.loads(scored.stdout)["verdict"] == "NG"
    assert invoke("score", model, tmp_path / "bad.png").output.startswith("NG")
    (tmp_path / "broken.png").write_bytes(b"x")
    broken = invoke("score", model, tmp_path / "broken.png")
    assert broken.exit_code == 2
    assert broken.output.startswith("ERROR")


def test_scoring_into_a_file_skips_what_it_has(tiny_folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(normal_pixels(6001 + i)))
    out = tmp_path / "out.jsonl"
    first = invoke("score", tiny_folder, tmp_path / "0.png", "--out", out)
    assert "1 images scored" in first.output
    second = invoke("score", tiny_folder, tmp_path, "--out", out)
    assert "2 images scored" in second.output
    assert "1 were there already" in second.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]


def test_scoring_a_folder_finds_what_lies_below_and_no_more(
    tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("ok.png", "late/ok.png", "ground_truth/mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(normal_pixels(6100)))
    (tmp_path / "._ok.png").write_bytes(b"macOS")
    (tmp_path / "late/Thumbs.db").write_bytes(b"Windows")
    (tmp_path / "late" / os.fsdecode(b"schei\xdfe.png")).write_bytes(
        png(planted(normal_pixels(1), 60, 40, 12))
    )
    result = invoke("score", tiny_folder, tmp_path)
    assert result.exit_code == 1, result.output
    assert [line[:2] for line in result.stdout.splitlines()] == ["OK", "OK", "NG"]
    assert "schei\\udcdfe.png" in result.stdout


def test_calibrate_says_what_it_took_and_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "normals").mkdir()
    for i in range(3):
        (tmp_path / f"normals/{i}.png").write_bytes(png(normal_pixels(6200 + i)))
    (tmp_path / "normals/a.webp").write_bytes(b"x")
    result = invoke("calibrate", tmp_path / "m", tmp_path / "normals", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)["data"]
    assert data["taken"] == {"validation/good": 3}
    assert data["left_out"] == {".webp (images of a kind that is not read)": 1}


def test_train_calibrates_by_itself_and_says_what_it_can_certify(
    tiny_data: Path, tmp_path: Path
) -> None:
    steps = overrides("optimiser.steps=3")
    result = invoke("train", tiny_data, "--out", tmp_path / "m", *steps)
    assert result.exit_code == 0, result.output
    assert "NOT certified" in result.output


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import synthetic

    small = synthetic.PartsConfig(12, 6, 4, 2, size=(120, 160))
    monkeypatch.setattr(synthetic, "PartsConfig", lambda: small)
    result = invoke("demo", "--folder", tmp_path, "--no-serve", *overrides("optimiser.steps=5"))
    assert result.exit_code == 0, result.output
    for name in ("scratch", "dent", "missing", "contamination", "crack", "image_AUROC"):
        assert name in result.output
    assert "curl -sS" in result.output
    assert "maskline serve --models" in result.output
    assert (tmp_path / "report/report.html").is_file()
    assert (tmp_path / "models/flange/manifest.json").is_file()


def test_the_demo_looks_for_its_port_before_it_trains(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke("demo", "--folder", tmp_path / "d", "--port", taken.getsockname()[1])
    assert getattr(result.exception, "code", None) == "port_in_use"
    assert not (tmp_path / "d").exists()


def test_doctor_says_what_is_there(tiny_folder: Path) -> None:
    result = invoke("doctor", "--models", tiny_folder, "--port", 0, "--json")
    findings = {row["name"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert "EfficientNet-Lite0" in findings["backbone"]["text"]
    assert "golden scores reproduced" in findings["model"]["text"]
    assert "✓" in invoke("doctor", "--port", 0).output


def test_doctor_finds_what_is_wrong(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    (tmp_path / "tiny/model.safetensors").unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke("doctor", "--models", tmp_path, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "model_corrupt" in result.output
    assert "is in use" in result.output
    assert "none in" in invoke("doctor", "--models", tmp_path / "x", "--port", 0).output


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


def test_a_name_that_is_not_utf_8_is_scored_and_printed(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"Gr\xf6\xdfe.png")
    path.write_bytes(png(normal_pixels(1)))
    command = [sys.executable, "-m", "maskline", "score", str(tiny_folder), str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert b"Gr\\udcf6\\udcdfe.png" in done.stdout


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


def test_a_senseless_rate_is_refused_before_training(tiny_data: Path, tmp_path: Path) -> None:
    result = invoke("train", tiny_data, "--out", tmp_path / "m", "--false-alarm-rate", 0)
    assert getattr(result.exception, "code", None) == "calibration_impossible"
    assert not (tmp_path / "m.run").exists()
