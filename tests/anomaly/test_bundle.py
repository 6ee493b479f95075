import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from anomaly import bundle as bundle_module
from anomaly import folders
from anomaly.bundle import Bundle, load_bundle, model_folders, save_bundle
from anomaly.calibration_file import calibration_digest
from anomaly.errors import (
    ModelCorrupt,
    ModelNotFound,
    ModelNotSaved,
    ModelSchemaUnknown,
    ModelUncalibrated,
    OutputRefused,
)
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.roi import Roi
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(tiny_bundle, tmp_path / "tiny", "v1")
    return tmp_path / "tiny"


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_round_trip_changes_no_score(tiny_bundle: Bundle, folder: Path) -> None:
    images = [RgbImage(normal_pixels(i)) for i in range(3)]
    images.append(RgbImage(planted(normal_pixels(4), 60, 40, 8)))
    before = detector_of(tiny_bundle).detect(images)
    loaded = load_bundle(folder)
    after = detector_of(loaded).detect(images)
    assert [d.pred_score for d in before] == [d.pred_score for d in after]
    assert [d.p_value for d in before] == [d.p_value for d in after]
    assert [d.regions for d in before] == [d.regions for d in after]
    assert loaded.name == "tiny"
    assert loaded.version == "v1"
    assert loaded.card == json.loads(json.dumps(tiny_bundle.card))
    assert loaded.calibration is not None
    assert tiny_bundle.calibration is not None
    assert loaded.calibration.candidates == tiny_bundle.calibration.candidates


def test_the_digest_is_the_manifests_and_stays(tiny_bundle: Bundle, tmp_path: Path) -> None:
    saved = save_bundle(tiny_bundle, tmp_path / "a", "v1")
    assert load_bundle(tmp_path / "a").digest == saved.digest
    other = save_bundle(tiny_bundle, tmp_path / "b", "v2")
    assert other.digest != saved.digest


def test_the_manifest_tells_what_a_person_would_ask(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema_version"] == 3
    assert manifest["config"]["target"]["kind"] == "pixels"
    assert manifest["backbone"] is None
    assert manifest["calibration"]["images"] == 40
    assert manifest["calibration"]["threshold"] > 0
    assert manifest["card"]["training"]["steps"] == 80


def test_a_feature_model_carries_its_backbone(tmp_path: Path) -> None:
    model = AnomalyModel.fresh(ModelConfig())
    save_bundle(Bundle("lite", model, None, {}), tmp_path / "lite", "v1")
    manifest = json.loads((tmp_path / "lite/manifest.json").read_text())
    assert manifest["backbone"]["name"] == "tf_efficientnet_lite0"
    loaded = load_bundle(tmp_path / "lite").model
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert bool((a == b).all()), name


@pytest.mark.parametrize("name", ["model", "calibration", "golden"])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        load_bundle(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelCorrupt, match=r"lacks model\.safetensors"):
        load_bundle(folder)


def test_no_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="train one first"):
        load_bundle(tmp_path)


def test_an_unknown_schema_is_refused(folder: Path) -> None:
    edit_manifest(folder, schema_version=99)
    with pytest.raises(ModelSchemaUnknown, match="99"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}', '{"schema_version": 3}'])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelCorrupt):
        load_bundle(folder)


def test_a_manifest_that_does_not_fit_its_weights_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["mae"]["depth"] = 3
    edit_manifest(folder, **manifest)
    with pytest.raises(ModelCorrupt, match="does not fit") as caught:
        load_bundle(folder)
    assert len(str(caught.value)) < 500


def test_a_manifest_cannot_reach_outside_its_folder(folder: Path) -> None:
    (folder.parent / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret.safetensors"] = "0" * 64
    edit_manifest(folder, **manifest)
    with pytest.raises(ModelCorrupt, match=r"lacks \.\./secret"):
        load_bundle(folder)


def test_wrong_golden_scores_are_refused(folder: Path) -> None:
    path = folder / "golden.safetensors"
    golden = load_file(path)
    golden["scores"] = golden["scores"] + 1.0
    save_file(golden, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(folder, **manifest)
    with pytest.raises(ModelCorrupt, match="golden scores"):
        load_bundle(folder)
    assert load_bundle(folder, check_golden=False).calibration is not None


def test_without_a_calibration_there_is_no_detector(tiny_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(replace(tiny_bundle, calibration=None), tmp_path / "raw", "v1")
    loaded = load_bundle(tmp_path / "raw")
    with pytest.raises(ModelUncalibrated, match="maskline calibrate"):
        detector_of(loaded)


def test_a_full_disk_leaves_what_was_there(
    tiny_bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_module.os, "fsync", full)
    with pytest.raises(ModelNotSaved, match="No space left on device"):
        save_bundle(tiny_bundle, folder, "v2")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_a_failed_swap_puts_the_old_model_back(
    tiny_bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".previous"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ModelNotSaved):
        save_bundle(tiny_bundle, folder, "v2")
    monkeypatch.undo()
    assert load_bundle(folder).version == "v1"
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_saving_again_replaces_the_model(tiny_bundle: Bundle, folder: Path) -> None:
    save_bundle(tiny_bundle, folder, "v2")
    assert load_bundle(folder).version == "v2"
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("foreign", ["notes.txt", "manifest.json"])
def test_a_folder_of_something_else_is_refused_and_stays(
    tiny_bundle: Bundle, tmp_path: Path, foreign: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / foreign).write_text('{"name": "a web page", "files": ["x"]}')
    with pytest.raises(OutputRefused, match="stays as it is"):
        save_bundle(tiny_bundle, tmp_path / "mine", "v1")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [foreign]
    with pytest.raises(OutputRefused, match="is a file"):
        save_bundle(tiny_bundle, tmp_path / "mine" / foreign, "v1")


def test_a_link_to_a_model_stays_a_link(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("tiny")
    (tmp_path / "next").symlink_to("not/yet")
    save_bundle(tiny_bundle, tmp_path / "current", "v2")
    save_bundle(tiny_bundle, tmp_path / "next", "v3")
    assert (tmp_path / "current").readlink() == Path("tiny")
    assert load_bundle(folder).version == "v2"
    assert load_bundle(tmp_path / "not/yet").version == "v3"


def test_a_models_own_old_files_go_and_others_stay(tiny_bundle: Bundle, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    save_bundle(replace(tiny_bundle, calibration=None), folder, "v2")
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "notes.txt",
    ]


def test_a_model_that_a_killed_process_moved_away_is_brought_back(folder: Path) -> None:
    folder.rename(folder.with_name(".tiny.abcd1234.previous"))
    assert load_bundle(folder).version == "v1"
    folder.rename(folder.with_name(".tiny.abcd1234.previous"))
    assert model_folders(folder.parent) == [folder]
    folder.rename(folder.with_name(".tiny.abcd1234.previous"))
    assert model_folders(folder) == [folder]


def test_nothing_on_disk_is_pickle_or_a_customers_image(folder: Path) -> None:
    assert sorted(p.suffix for p in folder.iterdir()) == [".json"] + [".safetensors"] * 3
    canvases = load_file(folder / "golden.safetensors")["canvases"].numpy()
    assert np.ptp(canvases[0], axis=(0, 1)).max() <= 255
    assert (canvases[0][:, 0] == canvases[0][:, -1]).all()  # a ramp, not a part


def test_what_a_killed_save_leaves_behind_is_no_model(folder: Path) -> None:
    (folder.parent / ".tiny.k1ll3d").mkdir()
    (folder.parent / ".tiny.k1ll3d" / "manifest.json").write_text("{")
    assert model_folders(folder.parent) == [folder]
    assert model_folders(folder) == [folder]


def test_regions_warnings_and_cameras_survive_a_round_trip(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    assert tiny_bundle.calibration is not None
    roi = Roi.of_polygons([[(0, 0), (0.5, 0), (0.5, 1), (0, 1)]])
    side = replace(tiny_bundle.calibration.at_rate(0.2), roi=roi, warn_rate=0.4)
    both = replace(tiny_bundle, cameras={"side/../camera": side, "top": tiny_bundle.calibration})
    save_bundle(both, tmp_path / "both", "v1")
    loaded = load_bundle(tmp_path / "both")
    assert set(loaded.cameras) == {"side/../camera", "top"}
    found = loaded.cameras["side/../camera"]
    assert calibration_digest(found) == calibration_digest(side)
    assert found.roi is not None
    np.testing.assert_array_equal(found.roi.inside, roi.inside)
    assert found.warn_threshold == side.warn_threshold
    assert found.rates == tiny_bundle.calibration.rates
    assert calibration_digest(loaded.cameras["top"]) == calibration_digest(tiny_bundle.calibration)


def test_whatever_changes_a_verdict_changes_the_digest(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.calibration is not None
    one = tiny_bundle.calibration
    others = [
        one.at_rate(0.2),
        replace(one, warn_rate=0.5),
        replace(one, roi=Roi(np.ones((512, 512), bool))),
        replace(one, weights=one.weights * 2),
    ]
    assert len({calibration_digest(each) for each in (one, *others)}) == 5
