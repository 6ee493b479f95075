import cv2
import numpy as np
import pytest

from anomaly.input_statistics import STATISTICS, input_statistics
from tests.conftest import normal_pixels, planted


def measured(pixels: np.ndarray) -> dict[str, float]:
    canvas = cv2.resize(pixels, (64, 64)).astype(np.float32) / 255
    return dict(zip(STATISTICS, input_statistics(canvas).tolist(), strict=True))


def test_a_dimmer_lamp_is_darkness_and_nothing_else() -> None:
    part = normal_pixels(1)
    bright, dim = measured(part), measured((part * 0.8).astype(np.uint8))
    assert dim["brightness"] == pytest.approx(0.8 * bright["brightness"], rel=0.01)
    for name in ("sharpness", "red", "blue"):
        assert dim[name] == pytest.approx(bright[name], abs=0.05)


def test_a_lens_out_of_focus_is_unsharp_and_not_dark() -> None:
    part = normal_pixels(1, (64, 64))
    sharp, soft = measured(part), measured(cv2.GaussianBlur(part, (0, 0), 2))
    assert soft["sharpness"] < sharp["sharpness"] - 0.3
    assert soft["brightness"] == pytest.approx(sharp["brightness"], abs=0.01)


def test_a_warmer_light_is_red() -> None:
    part = normal_pixels(1)
    warm = (part * [1.0, 0.85, 0.7]).astype(np.uint8)
    assert measured(warm)["red"] > measured(part)["red"] + 0.1
    assert measured(warm)["blue"] < measured(part)["blue"] - 0.1


def test_black_images_are_numbers_too() -> None:
    assert np.isfinite(input_statistics(np.zeros((32, 32, 3), np.float32))).all()


def test_a_defect_is_not_the_cameras() -> None:
    part = normal_pixels(1)
    plain, marked = measured(part), measured(planted(part, 60, 40, 8))
    for name in STATISTICS:
        usual = [measured(normal_pixels(seed))[name] for seed in range(30)]
        assert abs(marked[name] - plain[name]) < 3 * np.std(usual), name
