import json
from pathlib import Path

import pytest

from anomaly.bundle import Bundle, save_bundle, stored_version
from tests.cli.conftest import invoke, overrides
from tests.conftest import samples
from training.seen import remember_training


def test_train_calibrates_by_itself_and_says_what_it_can_certify(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    steps = overrides("optimiser.steps=3")
    result = invoke("train", tiny_data, "--out", tmp_path / "m", *steps)
    assert result.exit_code == 0, result.output
    assert "no --false-alarm-rate was given: 7.3 %, as 40 independent parts tell it" in caplog.text
    assert "NOT certified" not in result.output
    few = invoke(
        "calibrate", tmp_path / "m", tiny_data / "validation/good", "--false-alarm-rate", "0.01"
    )
    assert "NOT certified" in few.output


def test_a_senseless_rate_is_refused_before_training(tiny_data: Path, tmp_path: Path) -> None:
    result = invoke("train", tiny_data, "--out", tmp_path / "m", "--false-alarm-rate", 0)
    assert getattr(result.exception, "code", None) == "calibration_impossible"
    assert not (tmp_path / "m.run").exists()


def test_a_warning_rate_alone_is_refused_before_training(tiny_data: Path, tmp_path: Path) -> None:
    result = invoke("train", tiny_data, "--out", tmp_path / "m", "--warn-rate", 0.1)
    assert getattr(result.exception, "code", None) == "calibration_impossible"
    assert "needs a false-alarm rate" in str(result.exception)
    assert not (tmp_path / "m.run").exists()


def test_a_canvas_that_takes_too_long_is_refused_before_training(
    tiny_data: Path, tmp_path: Path
) -> None:
    hurried = invoke("train", tiny_data, "--out", tmp_path / "m", "--max-ms", 0.001, *overrides())
    assert getattr(hurried.exception, "code", None) == "recipe_invalid"
    assert "more than --max-ms 0.001" in str(hurried.exception)
    assert not (tmp_path / "m").exists()


def test_a_file_says_how_far_a_training_is(tiny_data: Path, tmp_path: Path) -> None:
    progress = tmp_path / "progress.json"
    steps = overrides("optimiser.steps=3")
    result = invoke(
        "train", tiny_data, "--out", tmp_path / "m", "--progress-file", progress, *steps
    )
    assert result.exit_code == 0, result.output
    state = json.loads(progress.read_text())
    assert state["stage"] == "calibration"
    assert state["total"] == 40


def test_masks_make_a_new_version_and_few_are_refused(
    tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    known = remember_training(tiny_bundle, samples(tiny_data / "train/good"))
    save_bundle(known, tmp_path / "m", "v1")
    result = invoke("label", tmp_path / "m", tiny_data, "--output", tmp_path / "labelled", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["labels"]["masks"] == {"blob": 6}
    assert 0 <= answer["labels"]["weight"] <= 0.5
    assert stored_version(tmp_path / "labelled") == answer["version"]
    assert stored_version(tmp_path / "m") == "v1"
    few = invoke("label", tmp_path / "m", tiny_data / "validation/good")
    assert getattr(few.exception, "code", None) == "data_invalid"
    assert "want 5 at the least" in str(few.exception)
