import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.errors import ConfigError
from anomaly.preprocess import PreprocessConfig, content_seed, place, preprocess
from anomaly.types import RgbImage
from tests.conftest import normal_pixels

sizes = st.tuples(st.integers(16, 300), st.integers(16, 300))


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from(["stretch", "letterbox"]))
def test_any_size_lands_on_the_canvas_and_maps_back(size: tuple[int, int], fit: str) -> None:
    config = PreprocessConfig(canvas=64, fit=fit)
    canvas, placement = place(RgbImage(np.full((*size, 3), 128, np.uint8)), config)
    assert canvas.shape == (64, 64, 3)
    assert canvas.dtype == np.float32
    top, left, bottom, right = placement.box
    assert placement.to_source(top, left) == (0, 0)
    assert placement.to_source(bottom, right) == pytest.approx(size)


def test_letterbox_keeps_the_aspect() -> None:
    config = PreprocessConfig(canvas=64, fit="letterbox")
    _, placement = place(RgbImage(np.zeros((50, 100, 3), np.uint8)), config)
    assert placement.box == (16, 0, 48, 64)


def test_white_is_one_at_every_depth() -> None:
    config = PreprocessConfig(canvas=32, white_level=4095)
    deep = RgbImage(np.full((40, 40, 3), 4095, np.uint16))
    shallow = RgbImage(np.full((40, 40, 3), 255, np.uint8))
    assert place(deep, config)[0].max() == place(shallow, config)[0].max() == 1.0


def test_a_dark_twelve_bit_image_is_not_brightened_by_guessing() -> None:
    config = PreprocessConfig(canvas=32, white_level=4095)
    dark = RgbImage(np.full((40, 40, 3), 409, np.uint16))
    assert place(dark, config)[0].mean() == pytest.approx(409 / 4095, abs=1e-4)


def test_a_batch_is_its_images_one_by_one() -> None:
    images = [RgbImage(normal_pixels(i, (30 + i, 50))) for i in range(3)]
    together, _ = preprocess(images, PreprocessConfig(canvas=48))
    alone = torch.cat([preprocess([one], PreprocessConfig(canvas=48))[0] for one in images])
    assert torch.equal(together, alone)


def test_the_seed_follows_from_the_content() -> None:
    a, b = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    assert content_seed(a) == content_seed(b)
    b[0, 0, 0] = 1
    assert content_seed(a) != content_seed(b)


@pytest.mark.parametrize("wrong", [{"canvas": 100}, {"fit": "crop"}, {"white_level": 7}])
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PreprocessConfig(**wrong)
