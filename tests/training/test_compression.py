"""Recompressed copies are one part with their original, in training and in calibration."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.bundle import Bundle, load_bundle
from anomaly.encoding import encoding_of, read_header
from anomaly.errors import ConfigError
from anomaly.heatmap import encode_jpeg
from tests.conftest import TINY, samples
from training.calibrate import measure
from training.compression import compression_of, file_bytes, with_compressed
from training.config import load_recipe
from training.data import Sample, open_dataset
from training.decoding import STRICT
from training.errors import RecipeError
from training.pipeline import Recalibration, calibrate_folder, train_model
from training.pretrain import pretrain
from training.progress import QUIET


@pytest.fixture(scope="module")
def normals(tiny_data: Path) -> list[Sample]:
    return samples(tiny_data / "validation/good")


def test_each_image_gets_a_copy_of_its_own_quality_and_session(normals: list[Sample]) -> None:
    both = with_compressed(normals, (40, 60), seed=3)
    assert both[: len(normals)] == normals
    copies = both[len(normals) :]
    assert [one.session for one in copies] == [one.session for one in normals]
    qualities = {one.quality for one in copies}
    assert qualities <= set(range(40, 61))
    assert len(qualities) > 5
    assert both == with_compressed(normals, (40, 60), seed=3) != with_compressed(normals, (40, 60))
    assert with_compressed(normals, ()) == normals


def test_a_copy_is_read_as_the_camera_would_send_it(normals: list[Sample]) -> None:
    copy = replace(normals[0], quality=30)
    [(_, whole)] = list(STRICT.images([normals[0]]))
    [(_, found)] = list(STRICT.images([copy]))
    header = read_header(file_bytes(copy))
    assert header is not None
    assert (header.format, header.quality) == ("JPEG", 30)
    assert found.size == whole.size
    assert not np.array_equal(found.pixels, whole.pixels)
    assert np.abs(found.pixels.astype(int) - whole.pixels).mean() < 10
    assert encoding_of(read_header(encode_jpeg(whole.pixels, 80)), whole).quality == 80


def test_a_picture_of_sixteen_bits_has_no_compressed_copy(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.full((64, 64), 40_000, np.uint16))
    assert file_bytes(Sample(path, "good", "train", "deep", quality=30)) == path.read_bytes()


def test_a_part_and_its_copy_count_once(tiny_bundle: Bundle, normals: list[Sample]) -> None:
    found = measure(tiny_bundle.model, with_compressed(normals, (30, 95)), progress=QUIET)
    assert len(found.groups) == 2 * len(normals)
    assert len(set(found.groups)) == len(normals)
    assert {one.format for one in found.encodings} == {"PNG", "JPEG"}


def test_a_model_trained_on_copies_is_calibrated_on_them_now_and_later(
    tiny_data: Path, tmp_path: Path, normals: list[Sample]
) -> None:
    config = load_recipe("default", [*TINY, "augment.compression=[30, 95]", "optimiser.steps=10"])
    train_model(open_dataset(tiny_data), tmp_path / "model", config, progress=QUIET)
    bundle = load_bundle(tmp_path / "model")
    assert bundle.calibration is not None
    assert bundle.card["training"]["images"] == 24
    assert compression_of(bundle) == (30, 95)
    assert (bundle.calibration.images.groups, len(bundle.calibration.images.scores)) == (40, 80)
    again = calibrate_folder(tmp_path / "model", normals, Recalibration(0.05), progress=QUIET)
    assert (again.calibration.images.groups, len(again.calibration.images.scores)) == (40, 80)


@pytest.mark.parametrize("wrong", ["[50]", "[80, 50]", "[0, 50]", "[50, 101]"])
def test_two_qualities_in_order(wrong: str) -> None:
    with pytest.raises((ConfigError, RecipeError), match="two JPEG qualities"):
        load_recipe("default", [f"augment.compression={wrong}"])


def test_pretraining_says_that_it_has_no_copies(tiny_data: Path, tmp_path: Path) -> None:
    config = load_recipe("pretrain", [*TINY, "augment.compression=[30, 95]"])
    with pytest.raises(RecipeError, match=r"augment\.compression"):
        pretrain([tiny_data], tmp_path / "out", tmp_path / "run", config, progress=QUIET)
