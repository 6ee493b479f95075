from pathlib import Path

import pytest

from tests.cli.conftest import invoke
from tests.training.annotations.conftest import block, image, masked
from training.annotations.formats import FORMATS
from training.annotations.labelled import Instance, LabelSet
from training.annotations.writing import write_folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    boxed = Instance("pore", (1, 2, 3, 4))
    labels = LabelSet(
        (
            image(folder, "a.png", masked("scratch", block(1, 1, 3, 3))),
            image(folder, "b.png", boxed),
            image(folder, "c.png"),
        )
    )
    target = tmp_path / "set"
    write_folder(FORMATS["coco"].write, labels, target, source=folder, force=False)
    return target


def test_labels_are_shown(coco: Path) -> None:
    result = invoke("labels", "show", coco)
    assert result.exit_code == 0, result.output
    assert "COCO instances (.json)" in result.output
    assert "3 images: 1 good, 2 defective" in result.output
    assert "note: 1 images without an annotation are taken for good parts" in result.output


def test_labels_are_converted_for_training(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = invoke("labels", "convert", coco, out, "--to", "mvtec")
    assert getattr(refused.exception, "code", None) == "data_invalid"
    assert not out.exists()
    result = invoke("labels", "convert", coco, out, "--to", "mvtec", "--from", "coco", "--lossy")
    assert result.exit_code == 0, result.output
    assert "left out: 1 boxes without a mask in 1 images (such as b.png)" in result.output
    assert f"next: maskline train {out} --out MODEL" in result.output
    again = invoke(
        "labels", "convert", coco, out, "--to", "mvtec", "--fill-boxes", "--force", "--images", coco
    )
    assert again.exit_code == 0, again.output
    assert (out / "ground_truth/pore/b_mask.png").is_file()


def test_an_unknown_format_is_named(coco: Path, tmp_path: Path) -> None:
    result = invoke("labels", "convert", coco, tmp_path / "out", "--to", "voc")
    assert "the format 'voc' is not among mvtec, coco" in str(result.exception)
    shown = invoke("labels", "show", coco, "--from", "voc")
    assert getattr(shown.exception, "code", None) == "data_invalid"
