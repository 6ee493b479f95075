import logging
from pathlib import Path

import numpy as np
import pytest

from anomaly.preprocess import PreprocessConfig
from tests.conftest import normal_pixels, png, samples
from training.data import Sample
from training.exposure import warn_of_dark


def written(folder: Path, shift: int) -> list[Sample]:
    for index in range(12):
        pixels = normal_pixels(index, (32, 48)).astype(np.uint16) << shift
        pixels[0, 0] = 65535  # one hot pixel
        (folder / f"{index}.png").write_bytes(png(pixels))
    return samples(folder)


def test_twelve_bits_in_sixteen_without_a_white_level_are_said_with_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = written(tmp_path, 4)
    with caplog.at_level(logging.WARNING):
        warn_of_dark(images, PreprocessConfig())
        assert "--set model.preprocess.white_level=4095" in caplog.text
        caplog.clear()
        warn_of_dark(images, PreprocessConfig(white_level=4095))
        assert not caplog.records


@pytest.mark.parametrize("shift", [7, 8])
def test_images_that_use_the_range_are_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shift: int
) -> None:
    warn_of_dark(written(tmp_path, shift), PreprocessConfig())
    assert not caplog.records


def test_eight_bits_and_what_cannot_be_read_are_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((32, 32, 3), np.uint8)))
    (tmp_path / "b.png").write_bytes(b"no image")
    warn_of_dark(samples(tmp_path), PreprocessConfig())
    assert not caplog.records
