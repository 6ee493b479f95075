import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.finetune.config import VariationConfig
from training.finetune.variation import draw_moves, lit, moved

STILL = VariationConfig(shift=0.0, brightness=0.0, contrast=0.0)


def test_nothing_asked_changes_nothing() -> None:
    pixels, generator = torch.rand(3, 3, 16, 16), np.random.default_rng(0)
    same = lit(moved(pixels, draw_moves(3, STILL, generator)), STILL, generator)
    torch.testing.assert_close(same, pixels, atol=1e-5, rtol=0)


def test_a_flip_turns_the_picture_about() -> None:
    config = VariationConfig(shift=0.0, flip_horizontal=True)
    moves = draw_moves(64, config, np.random.default_rng(0))
    flipped = moves[:, 0, 0] < 0
    assert 10 < int(flipped.sum()) < 54
    pixels = torch.rand(64, 3, 8, 8)
    turned = moved(pixels, moves)
    torch.testing.assert_close(turned[flipped], pixels[flipped].flip(3), atol=1e-5, rtol=0)


@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_a_crop_stays_within_the_canvas_and_has_its_area(seed: int, low: float) -> None:
    config = VariationConfig(crop=(low, 1.0), shift=0.0)
    moves = draw_moves(8, config, np.random.default_rng(seed))
    scale, offset = moves[:, [0, 1], [0, 1]], moves[:, :, 2]
    assert bool((scale.abs() + offset.abs() <= 1 + 1e-5).all())
    assert bool((scale.prod(dim=1) >= 0.7 * low).all())  # a long one is cut at the border


def test_light_stays_in_range_and_follows_the_seed() -> None:
    config = VariationConfig(brightness=0.4, contrast=0.4)
    pixels = torch.rand(4, 3, 8, 8)
    first, second = (lit(pixels, config, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, pixels)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
