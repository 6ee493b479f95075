"""Kinds learned from folders: into the model, into records, refused where nothing can be."""

import json
import shutil
from pathlib import Path

import pytest

from anomaly.bundle import load_bundle
from tests.cli.conftest import invoke


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "tiny"))


def test_folders_teach_a_model_and_records_name_what_is_found(
    model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    before = load_bundle(model)
    result = invoke("kinds", "learn", model, tiny_data)
    assert result.exit_code == 0, result.output
    assert "blob: 6 regions of 6 parts" in result.output
    after = load_bundle(model)
    assert after.examples is not None
    assert set(after.examples.kinds) == {"blob"}
    assert len(set(after.examples.parts)) == 6
    assert after.weights == before.weights
    assert after.version != before.version
    shown = invoke("kinds", "show", model, "--json")
    assert json.loads(shown.stdout)["examples"] == {"blob": 6}
    records = tmp_path / "records.jsonl"
    assert invoke("score", model, tiny_data / "test/blob", "--out", records).exit_code == 1
    regions = [json.loads(line)["regions"][0] for line in records.read_text().splitlines()]
    assert {region["kind"] for region in regions} <= {"blob", "unknown"}
    assert all(0 < region["kind_p"] <= 1 for region in regions)


def test_regions_beside_the_mask_teach_nothing(
    model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    masks = sorted((data / "ground_truth/blob").iterdir())
    for mask in masks[1:]:
        shutil.copy(masks[0], mask)  # of a place where only the first part has its defect
    result = invoke("kinds", "learn", model, data, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parts"] == {"blob": 6}
    examples = load_bundle(model).examples
    assert examples is not None
    assert len(examples.kinds) < 6


def test_nothing_to_learn_from_is_said_and_changes_nothing(
    model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    version = load_bundle(model).version
    good = tmp_path / "good-only"
    shutil.copytree(tiny_data / "train", good / "train")
    refused = invoke("kinds", "learn", model, good)
    assert getattr(refused.exception, "code", None) == "data_invalid"
    assert "no labelled defect" in str(refused.exception)
    unnamed = tmp_path / "unnamed"
    shutil.copytree(tiny_data / "train", unnamed / "train")
    folder = shutil.copytree(tiny_data / "test/blob", unnamed / "test/unknown")
    assert "cannot be called" in str(invoke("kinds", "learn", model, unnamed).exception)
    Path(folder).rename(unnamed / "test/%75nknown")  # as 'labels collect' would write it
    assert "cannot be called" in str(invoke("kinds", "learn", model, unnamed).exception)
    harmless = tmp_path / "harmless"
    shutil.copytree(tiny_data / "train", harmless / "train")
    (harmless / "test/blob").mkdir(parents=True)
    shutil.copy(tiny_data / "validation/good/003.png", harmless / "test/blob")
    passed = invoke("kinds", "learn", model, harmless)
    assert "rejects none of the 1 labelled parts" in str(passed.exception)
    assert load_bundle(model).version == version


def test_damaged_examples_are_a_corrupt_model(model: Path, tiny_data: Path) -> None:
    invoke("kinds", "learn", model, tiny_data)
    file = model / "kinds.safetensors"
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    shown = invoke("kinds", "show", model)
    assert getattr(shown.exception, "code", None) == "model_corrupt"
