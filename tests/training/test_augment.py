import numpy as np
import pytest
import torch

from anomaly.types import RgbImage
from training.augment import crop, vary
from training.config import AugmentConfig


def canvases(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_a_variation_follows_from_its_seed_and_not_from_its_neighbours() -> None:
    pixels, config = canvases(), AugmentConfig(flip_horizontal=True, flip_vertical=True)
    together = vary(pixels, config, [(1, i) for i in range(4)])
    alone = torch.cat([vary(pixels[i : i + 1], config, [(1, i)]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, vary(pixels, config, [(2, i) for i in range(4)]))
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1


def test_what_has_no_seed_stays_as_it_is() -> None:
    pixels = canvases()
    varied = vary(pixels, AugmentConfig(), [None, (1, 1), None, (1, 3)])
    assert torch.equal(varied[[0, 2]], pixels[[0, 2]])
    assert not torch.allclose(varied[[1, 3]], pixels[[1, 3]])
    assert vary(pixels, AugmentConfig(), [None] * 4) is pixels


def test_a_shift_moves_by_its_share_of_the_side() -> None:
    pixels = torch.zeros(1, 3, 100, 100)
    pixels[0, :, 50, 50] = 1.0
    config = AugmentConfig(shift=0.1, brightness=0.0, contrast=0.0)
    seen = set()
    for seed in range(12):
        moved = vary(pixels, config, [(seed,)])[0, 0]
        assert float(moved.sum()) == pytest.approx(
            1.0, abs=0.05
        )  # between pixels, spread over four
        row, col = divmod(int(moved.argmax()), 100)
        assert max(abs(row - 50), abs(col - 50)) <= 10
        seen.add((row, col))
    assert len(seen) > 6


def test_brightness_and_contrast_stay_within_what_was_asked() -> None:
    pixels = torch.full((50, 3, 16, 16), 0.5)
    config = AugmentConfig(shift=0.0, brightness=0.1, contrast=0.2)
    levels = vary(pixels, config, [(i,) for i in range(50)]).mean(dim=(1, 2, 3))
    assert 0.4 <= float(levels.min()) < 0.43
    assert 0.57 < float(levels.max()) <= 0.6


def test_a_crop_has_its_share_of_the_area_and_lies_within() -> None:
    pixels = np.arange(120 * 160 * 3, dtype=np.uint16).reshape(120, 160, 3)
    config = AugmentConfig(fresh=True, crop=(0.2, 0.6))
    shares = []
    for seed in range(40):
        part = crop(RgbImage(pixels), config, (seed,)).pixels
        assert part.dtype == np.uint16
        shares.append(part.shape[0] * part.shape[1] / (120 * 160))
        top, left = divmod((int(part[0, 0, 0]) // 3), 160)
        assert np.array_equal(part, pixels[top : top + part.shape[0], left : left + part.shape[1]])
    assert 0.18 < min(shares) < 0.3
    assert 0.5 < max(shares) < 0.62
