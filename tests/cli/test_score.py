import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from anomaly.bundle import Bundle, save_bundle
from tests.cli.conftest import invoke, overrides
from tests.conftest import normal_pixels, planted, png


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
    page = (tmp_path / "report/report.html").read_text()
    assert "What other thresholds would cost and catch" in page
    assert 'alt="Trade-off"' in page
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


def test_a_name_that_is_not_utf_8_is_scored_and_printed(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"Gr\xf6\xdfe.png")
    path.write_bytes(png(normal_pixels(1)))
    command = [sys.executable, "-m", "maskline", "score", str(tiny_folder), str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert b"Gr\\udcf6\\udcdfe.png" in done.stdout


def test_a_statement_says_what_the_threshold_promises_and_what_others_cost(
    tiny_folder: Path,
) -> None:
    told = invoke("statement", tiny_folder)
    assert told.exit_code == 0, told.output
    assert "5.00% is certified" in told.output
    marked = [line for line in told.stdout.splitlines() if line.startswith(">")]
    assert [line.split()[1] for line in marked] == ["0.05"]
    values = json.loads(invoke("statement", tiny_folder, "--json").stdout)
    assert (values["mode"], values["camera"]) == ("certified", None)
    points = {point["rate"]: point for point in values["trade_offs"]}
    assert points[0.05]["threshold"] == values["threshold"]
    assert points[0.05]["false_alarms"] == values["expected_alarms"]
    assert points[0.001]["mode"] == "estimated"
    assert 0 < points[0.001]["synthetic_recall"] <= points[0.1]["synthetic_recall"] <= 1
    unknown = invoke("statement", tiny_folder, "--camera", "left")
    assert getattr(unknown.exception, "code", None) == "calibration_impossible"


def test_a_statement_says_which_rate_costs_the_least(tiny_folder: Path, tiny_data: Path) -> None:
    costs = ("--escape-cost", 50, "--defect-rate", 0.02)
    told = invoke("statement", tiny_folder, *costs)
    assert told.exit_code == 0, told.output
    assert "by 0 confirmed defects" in told.stdout
    assert len([line for line in told.stdout.splitlines() if line.startswith(">")]) == 2
    confirmed = ("--defects", tiny_data / "test/blob")
    values = json.loads(invoke("statement", tiny_folder, *costs, *confirmed, "--json").stdout)
    assert values["confirmed_defects"] == 6
    assert {point["defects_recall"] for point in values["trade_offs"]} != {None}
    best = min(values["costs"], key=lambda one: one["cost"])
    dear = json.loads(
        invoke(
            "statement", tiny_folder, *costs, *confirmed, "--false-alarm-cost", 50, "--json"
        ).stdout
    )
    cautious = min(dear["costs"], key=lambda one: one["cost"])
    assert cautious["trade_off"]["rate"] <= best["trade_off"]["rate"]
    table = invoke("statement", tiny_folder, *costs, *confirmed).stdout
    assert "confirmed  threshold is" in table
    assert "by 6 confirmed defects" in table


def test_costs_need_each_other_and_a_folder_of_defects_needs_images(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    half = invoke("statement", tiny_folder, "--escape-cost", 50)
    assert half.exit_code == 2
    assert "need each other" in half.output
    empty = invoke("statement", tiny_folder, "--defects", tmp_path)
    assert getattr(empty.exception, "code", None) == "data_invalid"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = invoke("statement", tiny_folder, "--defects", tmp_path)
    assert getattr(broken.exception, "code", None) == "data_invalid"
    shutil.copy(next((tiny_data / "test/blob").iterdir()), tmp_path / "defect.png")
    skipped = invoke("statement", tiny_folder, "--defects", tmp_path, "--skip-unreadable", "--json")
    assert json.loads(skipped.stdout)["confirmed_defects"] == 1
    wrong = invoke("statement", tiny_folder, "--escape-cost", 50, "--defect-rate", 2)
    assert getattr(wrong.exception, "code", None) == "calibration_impossible"


def test_a_threshold_set_by_hand_stands_until_it_is_calibrated_anew(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    held_out = tiny_data / "validation/good"
    by_hand = invoke("calibrate", tmp_path / "m", held_out, "--threshold", 2.5, "--json")
    assert by_hand.exit_code == 0, by_hand.output
    values = json.loads(by_hand.stdout)
    assert (values["threshold"], values["mode"]) == (2.5, "given")
    assert any("by hand" in line for line in values["messages"])
    told = invoke("statement", tmp_path / "m")
    assert "threshold 2.5000 set by hand" in told.output
    again = invoke("calibrate", tmp_path / "m", held_out, "--false-alarm-rate", 0.05, "--json")
    assert json.loads(again.stdout)["mode"] == "certified"
    refused = invoke("calibrate", tmp_path / "m", held_out, "--threshold", -1)
    assert getattr(refused.exception, "code", None) == "calibration_impossible"


def test_a_model_without_a_calibration_states_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(replace(tiny_bundle, calibration=None), tmp_path / "m", "v1")
    told = invoke("statement", tmp_path / "m")
    assert getattr(told.exception, "code", None) == "model_uncalibrated"
