import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.calibration_file import calibration_digest
from anomaly.calibration_report import state
from anomaly.detector import Detector
from anomaly.errors import CalibrationError, ModelUncalibrated, RoiInvalid, ScoreNotFinite
from anomaly.preprocess import preprocess
from anomaly.types import Detection, RgbImage
from tests.conftest import normal_pixels, planted, png, samples, write_set
from training.calibrate import calibrate_model, with_groups
from training.config import TrainConfig
from training.data import Sample, open_dataset
from training.decoding import Decoding
from training.errors import DataError
from training.evaluate import format_table
from training.pipeline import (
    Recalibration,
    Training,
    calibrate_folder,
    evaluate_model,
    train_model,
)
from training.progress import QUIET
from training.scoring import read_done, score_files


def test_train_calibrate_and_evaluate_from_paths(
    tiny_data: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    dataset = open_dataset(tiny_data)
    out = tmp_path / "models" / "part"
    raw = train_model(dataset, out, tiny_config, Training(calibration=None), progress=QUIET)
    assert raw.calibration is None
    with pytest.raises(ModelUncalibrated):
        evaluate_model(out, dataset, progress=QUIET)
    calibrated = calibrate_folder(
        out, samples(tiny_data / "validation/good"), Recalibration(0.05), progress=QUIET
    ).bundle
    assert calibrated.version > raw.version
    figures, page = evaluate_model(
        out, dataset, json_file=tmp_path / "f.json", report=tmp_path / "report", progress=QUIET
    )
    assert json.loads((tmp_path / "f.json").read_text()) == figures
    assert figures["image_AUROC"] > 0.95
    assert figures["pixel_AUROC"] > 0.9
    assert figures["realised_false_alarm_rate"] <= 0.25
    assert figures["kinds"]["blob"]["images"] == 6
    table = format_table(figures)
    assert "image_AUROC" in table
    assert "false alarms, stated" in table
    assert page is not None
    html = page.read_text()
    assert "blob/000.png" in html
    assert html.count("data:image/jpeg") == len(list((tmp_path / "report").glob("*.jpg")))
    assert "stretch" not in html
    assert figures["plan"] == {"canvas": 64, "bands": 1, "synthetic_recall": {}, "ms": {}}
    assert "<h2>The canvas</h2>" not in html  # nothing was tried


def test_the_report_says_what_the_canvases_were_found_to_bring(
    tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    tried = {"64": {"local": 0.5, "diffuse": 0.75}, "128": {"local": 0.625, "diffuse": 0.125}}
    card = {"training": {"plan": {"canvas": 64, "synthetic_recall": tried, "ms": {}}}}
    save_bundle(replace(tiny_bundle, card=tiny_bundle.card | card), tmp_path / "m", "v1")
    _, page = evaluate_model(
        tmp_path / "m", open_dataset(tiny_data), report=tmp_path / "report", progress=QUIET
    )
    assert page is not None
    html = page.read_text()
    assert "<h2>The canvas</h2>" in html
    assert '<tr style="font-weight: 600"><td>64 px</td><td>0.500</td><td>0.750</td></tr>' in html
    assert "<tr><td>128 px</td><td>0.625</td><td>0.125</td></tr>" in html


def test_training_leaves_log_and_checkpoint_beside_the_model(
    tiny_data: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(tiny_config, optimiser=replace(tiny_config.optimiser, steps=4))
    train_model(open_dataset(tiny_data), tmp_path / "m", config, progress=QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.run"]
    card = load_bundle(tmp_path / "m").card
    assert card["training"]["recipe"]["optimiser"]["steps"] == 4
    assert card["training"]["images"] == 24


def test_broken_training_images_are_skipped_only_on_request(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(tiny_config, optimiser=replace(tiny_config.optimiser, steps=2))
    data = write_set(tmp_path / "data", {"train/good": 6, "validation/good": 4})
    (data / "train/good/003.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"003\.png"):
        train_model(open_dataset(data), tmp_path / "m", config, progress=QUIET)
    assert not (tmp_path / "m").exists()
    bundle = train_model(
        open_dataset(data),
        tmp_path / "m",
        config,
        Training(decoding=Decoding(skip_unreadable=True)),
        progress=QUIET,
    )
    assert bundle.card["training"]["images"] == 5


def test_calibrating_on_nothing_readable_is_said(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        calibrate_model(tiny_bundle.model, [], progress=QUIET)
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of"):
        calibrate_model(
            tiny_bundle.model,
            samples(tmp_path),
            decoding=Decoding(skip_unreadable=True),
            progress=QUIET,
        )


def test_one_session_cannot_calibrate(tiny_bundle: Bundle, tiny_data: Path) -> None:
    one = [replace(s, session="lot1") for s in samples(tiny_data / "validation/good")]
    with pytest.raises(CalibrationError, match="at least 2"):
        calibrate_model(tiny_bundle.model, one, progress=QUIET)


def test_calibration_is_reproducible(tiny_bundle: Bundle, tiny_data: Path) -> None:
    normals = samples(tiny_data / "validation/good")[:12]
    first = calibrate_model(tiny_bundle.model, normals, progress=QUIET)
    second = calibrate_model(tiny_bundle.model, normals, progress=QUIET)
    assert first.threshold == second.threshold
    assert first.candidates == second.candidates


def test_groups_can_come_from_names_folders_or_images() -> None:
    sample = Sample(Path("/lots/mon/cam1_0007_b.png"), "good", "train", "as-manifest")
    by = {key: with_groups([sample], key)[0].session for key in (None, "session", "folder")}
    assert by == {None: "as-manifest", "session": "as-manifest", "folder": "/lots/mon"}
    assert with_groups([sample], "image")[0].session == str(sample.path)
    assert with_groups([sample], r"cam1_(\d+)")[0].session == "0007"
    with pytest.raises(DataError, match="finds no group"):
        with_groups([sample], r"cam2_(\d+)")
    with pytest.raises(DataError, match="finds no group"):
        with_groups([sample], r"cam1")
    with pytest.raises(DataError, match="no regular expression"):
        with_groups([sample], "(")


def test_the_finite_sample_limit_is_said_aloud(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.calibration is not None
    said = " ".join(state(tiny_bundle.calibration.at_rate(0.01)).messages)
    assert "40 normal images in 40 independent groups" in said
    assert "NOT certified: it needs 99" in said
    assert len(state(tiny_bundle.calibration).messages) == 3


def test_files_are_scored_one_record_each(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_bytes(png(planted(normal_pixels(1), 60, 40, 12)))
    (tmp_path / "in/broken.png").write_bytes(b"broken")
    rows = list(
        score_files(tiny_folder, [tmp_path / "in", tmp_path / "gone.png"], heatmaps=tmp_path / "h")
    )
    assert [row["status"] for row in rows] == ["ok", "error", "error"]
    assert rows[0]["verdict"] == "NG"
    assert rows[0]["regions"]
    assert rows[1]["code"] == "image_unsupported"
    assert rows[2]["code"] == "file_unreadable"
    assert rows[0]["heatmap"].startswith(str(tmp_path / "h/png_bad-"))
    picture = cv2.imread(rows[0]["heatmap"])
    assert picture is not None
    assert picture.shape == (96, 128, 3)


def test_scoring_goes_on_where_it_was_broken_off(tiny_folder: Path, tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"part{i:02}.png").write_bytes(png(normal_pixels(i)))
    (tmp_path / "part07.png").write_bytes(b"broken")
    whole = list(score_files(tiny_folder, [tmp_path]))
    assert [Path(row["image"]).stem for row in whole] == [f"part{i:02}" for i in range(20)]
    records = tmp_path / "out.jsonl"
    lines = [json.dumps(row) + "\n" for row in whole]
    records.write_text("".join(lines[:9]) + lines[9][:40])  # killed while it wrote the tenth
    done = read_done(records)
    assert len(done) == 9
    assert records.read_text() == "".join(lines[:9])
    rest = list(score_files(tiny_folder, [tmp_path], done=done))
    assert [row["image"] for row in rest] == [row["image"] for row in whole[9:]]
    # Batch-mates do not change a score.
    scores = [row["score"] for row in whole[9:]]
    assert [row["score"] for row in rest] == pytest.approx(scores, rel=1e-5)
    assert read_done(tmp_path / "none.jsonl") == set()


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(DataError, match="choose another file"):
        read_done(other)
    assert other.read_text() == "my notes\n"


def test_an_empty_folder_to_score_is_said(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        list(score_files(tiny_folder, [tmp_path]))


def test_a_test_split_needs_both_kinds(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_set(tmp_path, {"train/good": 3, "validation/good": 3})
    with pytest.raises(DataError, match="no test images"):
        evaluate_model(tiny_folder, open_dataset(data), progress=QUIET)
    write_set(data, {"test/good": 3})
    with pytest.raises(DataError, match="both normal"):
        evaluate_model(tiny_folder, open_dataset(data), progress=QUIET)


def test_sets_without_masks_have_no_pixel_figures(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_set(tmp_path, {"train/good": 3, "validation/good": 3, "test/good": 3})
    (data / "test/odd").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    (data / "test/odd/a.png").write_bytes(png(noise))
    figures, _ = evaluate_model(tiny_folder, open_dataset(data), progress=QUIET)
    assert figures["image_AUROC"] == 1.0
    assert "pixel_AUROC" not in figures


def test_saving_a_calibration_keeps_the_weights(
    tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "m", "v1")
    before = (tmp_path / "m/model.safetensors").read_bytes()
    calibrate_folder(
        tmp_path / "m", samples(tiny_data / "validation/good")[:10], Recalibration(), progress=QUIET
    )
    assert (tmp_path / "m/model.safetensors").read_bytes() == before


def test_regions_and_cameras_are_calibrated_beside_the_rest(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m"
    shutil.copytree(tiny_folder, model)
    normals = samples(tiny_data / "validation/good")
    roi = tmp_path / "roi.json"
    roi.write_text('{"ignore": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}')
    with_roi = calibrate_folder(model, normals, Recalibration(0.05, 0.2, roi), progress=QUIET)
    assert with_roi.before is None  # scores of another region are not to be compared
    assert with_roi.calibration.roi is not None
    kept = calibrate_folder(model, normals, Recalibration(0.05), progress=QUIET)
    assert kept.calibration.roi is not None
    assert kept.before is not None
    assert not kept.before.are_unlike
    side = calibrate_folder(
        model, normals[:20], Recalibration(0.1, roi=Path("none"), camera="side"), progress=QUIET
    )
    loaded = load_bundle(model)
    assert loaded.version == side.bundle.version
    assert loaded.calibration is not None
    assert calibration_digest(loaded.calibration) == calibration_digest(kept.calibration)
    assert calibration_digest(loaded.cameras["side"]) == calibration_digest(side.calibration)
    assert loaded.cameras["side"].roi is None


def test_a_camera_needs_a_calibration_for_the_others_first(
    tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    save_bundle(replace(tiny_bundle, calibration=None), tmp_path / "m", "v1")
    with pytest.raises(ModelUncalibrated, match="for all cameras first"):
        calibrate_folder(
            tmp_path / "m", samples(tiny_data / "validation/good"), Recalibration(camera="side")
        )


def test_a_region_that_cannot_be_read_changes_nothing(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "roi.json").write_text("{")
    with pytest.raises(RoiInvalid):
        calibrate_folder(
            tmp_path / "m",
            samples(tiny_data / "validation/good"),
            Recalibration(roi=tmp_path / "roi.json"),
        )
    assert load_bundle(tmp_path / "m").version == "v1"


def test_an_image_without_a_finite_score_is_an_error_and_spares_the_others(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(png(normal_pixels(5100 + index)))
    plain = Detector.detect_canvases

    def spoilt(self: Detector, canvases: torch.Tensor, *more: Any) -> list[Detection]:
        odd, _ = preprocess([RgbImage(normal_pixels(5102))], self.model.config.preprocess)
        if any(torch.equal(canvas, odd[0]) for canvas in canvases):
            raise ScoreNotFinite("the score is nan")
        return plain(self, canvases, *more)

    monkeypatch.setattr(Detector, "detect_canvases", spoilt)
    records = list(score_files(tiny_folder, [tmp_path]))
    assert [record["status"] for record in records] == ["ok", "ok", "error", "ok"]
    assert records[2]["code"] == "score_not_finite"
    assert "verdict" not in records[2]
