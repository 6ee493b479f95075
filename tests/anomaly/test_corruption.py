import cv2
import numpy as np
import pytest

from anomaly.corruption import corrupt, corrupt_diffusely, corrupt_finely
from anomaly.types import RgbImage
from tests.conftest import normal_pixels


@pytest.mark.parametrize("seed", range(25))
def test_a_defect_is_visible_and_stays_near_its_mask(seed: int) -> None:
    image, donor = RgbImage(normal_pixels(1)), RgbImage(normal_pixels(2, (50, 70)))
    changed, mask = corrupt(image, donor, np.random.default_rng(seed))
    assert changed.pixels.shape == image.pixels.shape
    assert changed.pixels.dtype == np.uint8
    assert mask.shape == image.size
    assert mask.any()
    difference = np.abs(changed.pixels.astype(int) - image.pixels).max(axis=2)
    assert difference[mask].mean() > 1
    far = np.ones_like(mask)
    rows, cols = np.nonzero(mask)
    far[max(0, rows.min() - 5) : rows.max() + 6, max(0, cols.min() - 5) : cols.max() + 6] = False
    assert difference[far].max(initial=0) == 0


def test_sixteen_bits_stay_sixteen_bits() -> None:
    deep = RgbImage(normal_pixels(1).astype(np.uint16) * 257)
    changed, _ = corrupt(deep, deep, np.random.default_rng(0))
    assert changed.pixels.dtype == np.uint16


def test_the_same_generator_gives_the_same_defect() -> None:
    image = RgbImage(normal_pixels(1))
    first = corrupt(image, image, np.random.default_rng(3))[0].pixels
    second = corrupt(image, image, np.random.default_rng(3))[0].pixels
    np.testing.assert_array_equal(first, second)


def test_a_blank_image_does_not_trap_it() -> None:
    blank = RgbImage(np.zeros((32, 32, 3), np.uint8))
    changed, mask = corrupt(blank, blank, np.random.default_rng(0))
    assert changed.pixels.shape == blank.pixels.shape
    assert mask.any()


@pytest.mark.parametrize("seed", range(25))
def test_a_diffuse_defect_is_large_visible_and_has_no_edge(seed: int) -> None:
    grey = RgbImage(np.full((120, 160, 3), 120, np.uint8))
    image = RgbImage(normal_pixels(1, (120, 160)))
    changed, mask = corrupt_diffusely(image, np.random.default_rng(seed))
    assert changed.pixels.dtype == np.uint8
    assert mask.shape == image.size
    assert mask.mean() > 0.02
    difference = np.abs(changed.pixels.astype(int) - image.pixels).max(axis=2)
    assert difference[mask].mean() > 1
    # On an even surface nothing jumps but grain: the shade changes by a few steps a pixel.
    smooth, _ = corrupt_diffusely(grey, np.random.default_rng(seed))
    rows = np.abs(np.diff(smooth.pixels[..., 0].astype(int), axis=0))
    assert np.median(rows) <= 8


def test_diffuse_defects_keep_sixteen_bits_and_end_on_blank_images() -> None:
    deep = RgbImage(normal_pixels(1).astype(np.uint16) * 257)
    changed, _ = corrupt_diffusely(deep, np.random.default_rng(0))
    assert changed.pixels.dtype == np.uint16
    blank = RgbImage(np.zeros((32, 32, 3), np.uint8))
    assert corrupt_diffusely(blank, np.random.default_rng(0))[0].pixels.shape == (32, 32, 3)


@pytest.mark.parametrize("seed", range(25))
def test_a_fine_defect_is_as_thin_as_canvas_pixels_are(seed: int) -> None:
    image, donor = RgbImage(normal_pixels(1, (240, 320))), RgbImage(normal_pixels(2, (50, 70)))
    for pixel in (1.0, 4.0):
        changed, mask = corrupt_finely(image, donor, np.random.default_rng(seed), pixel)
        difference = np.abs(changed.pixels.astype(int) - image.pixels).max(axis=2)
        assert difference[mask].mean() > 1
        depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max()
        assert 1 <= depth <= 7 * pixel + 1
        far = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8)) == 0
        assert difference[far].max(initial=0) == 0


def test_fine_defects_keep_sixteen_bits_and_end_on_blank_images() -> None:
    deep = RgbImage(normal_pixels(1).astype(np.uint16) * 257)
    assert corrupt_finely(deep, deep, np.random.default_rng(0), 1.0)[0].pixels.dtype == np.uint16
    blank = RgbImage(np.zeros((32, 32, 3), np.uint8))
    changed, mask = corrupt_finely(blank, blank, np.random.default_rng(0), 0.3)
    assert changed.pixels.shape == (32, 32, 3)
    assert mask.any()
