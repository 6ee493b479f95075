import json
from pathlib import Path

import pytest
import torch

from anomaly.bundle import Bundle, load_bundle, model_folders, save_bundle
from anomaly.errors import ModelCorrupt, ModelNotFound, ModelOfOtherKind, OutputRefused
from anomaly.types import RgbImage
from supervised.bundle import (
    SupervisedBundle,
    is_supervised,
    load_supervised,
    save_supervised,
    supervised_folders,
)
from supervised.predictor import Predictor
from tests.conftest import normal_pixels


def test_a_round_trip_changes_nothing(bundle: SupervisedBundle, tmp_path: Path) -> None:
    saved = save_supervised(bundle, tmp_path / "kinds", "v1")
    read = load_supervised(tmp_path / "kinds")
    assert (read.name, read.version, read.digest) == ("kinds", "v1", saved.digest)
    assert (read.config, read.card) == (bundle.config, bundle.card)
    images = [RgbImage(normal_pixels(seed)) for seed in range(2)]
    assert Predictor(read).predict(images) == Predictor(bundle).predict(images)


def test_probabilities_sum_to_one_and_do_not_depend_on_batch_mates(
    bundle: SupervisedBundle,
) -> None:
    predictor = Predictor(bundle)
    images = [RgbImage(normal_pixels(seed, (40 + seed, 70))) for seed in range(4)]
    for image, answer in zip(images, predictor.predict(images), strict=True):
        assert sum(score.probability for score in answer.classes) == pytest.approx(1, abs=1e-5)
        (alone,) = predictor.predict([image])
        assert [s.kind for s in alone.classes] == [s.kind for s in answer.classes]
        likely = [score.probability for score in answer.classes]
        assert likely == sorted(likely, reverse=True)
        assert likely == pytest.approx([s.probability for s in alone.classes], abs=1e-5)


def test_models_of_anomalies_and_of_labels_are_told_apart(
    bundle: SupervisedBundle, tiny_folder: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "kinds"
    save_supervised(bundle, labels, "v1")
    assert is_supervised(labels)
    assert not is_supervised(tiny_folder)
    with pytest.raises(ModelOfOtherKind, match="maskline finetune"):
        load_bundle(labels)
    with pytest.raises(ModelOfOtherKind, match="one of anomaly"):
        load_supervised(tiny_folder)
    (tmp_path / "flange").symlink_to(tiny_folder)
    assert [p.name for p in model_folders(tmp_path)] == ["flange"]
    assert [p.name for p in supervised_folders(tmp_path)] == ["kinds"]
    assert supervised_folders(labels) == [labels]
    with pytest.raises(ModelNotFound):
        load_supervised(tmp_path / "nothing")


def test_neither_kind_replaces_the_other(
    bundle: SupervisedBundle, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_supervised(bundle, tmp_path / "kinds", "v1")
    save_supervised(bundle, tmp_path / "kinds", "v2")
    with pytest.raises(OutputRefused, match="another kind"):
        save_bundle(tiny_bundle, tmp_path / "kinds", "v3")
    save_bundle(tiny_bundle, tmp_path / "tiny", "v1")
    with pytest.raises(OutputRefused, match="another kind"):
        save_supervised(bundle, tmp_path / "tiny", "v2")
    assert load_supervised(tmp_path / "kinds").version == "v2"


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def another_class(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["config"]["classes"].append("dent"))


def another_kind(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["config"].update(task="nothing"))


def no_weights(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["files"].clear())


def unknown_setting(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["config"]["head"].update(depth=2))


def edit(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage", [flip_a_byte, another_class, another_kind, no_weights, unknown_setting]
)
def test_a_damaged_folder_is_refused_in_one_line(
    bundle: SupervisedBundle, tmp_path: Path, damage
) -> None:
    save_supervised(bundle, tmp_path / "kinds", "v1")
    damage(tmp_path / "kinds")
    with pytest.raises(ModelCorrupt) as refused:
        load_supervised(tmp_path / "kinds")
    assert "\n" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(bundle: SupervisedBundle, tmp_path: Path) -> None:
    with torch.no_grad():
        bundle.network.head.bias[0] = torch.nan
    save_supervised(bundle, tmp_path / "kinds", "v1")
    with pytest.raises(ModelCorrupt, match="not finite"):
        load_supervised(tmp_path / "kinds")


def test_a_folder_of_something_else_stays(bundle: SupervisedBundle, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputRefused):
        save_supervised(bundle, tmp_path, "v1")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
