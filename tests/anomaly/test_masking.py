import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomaly.errors import ConfigError, ShapeError
from anomaly.masking import (
    MASK_KINDS,
    MaskingConfig,
    MaskKind,
    covering_masks,
    random_masks,
    split_indices,
    training_masks,
)
from anomaly.types import Grid

lengths = st.integers(8, 200)


@given(lengths, st.integers(2, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_patch_is_hidden_in_every_repeat(
    length: int, parts: int, repeats: int, seed: int
) -> None:
    masks = covering_masks(length, MaskingConfig(parts, repeats), seed)
    assert masks.shape == (repeats, parts, length)
    times = masks.sum(dim=1)
    assert int(times.min()) >= 1
    assert int(times.max()) <= 2
    if length % parts == 0:
        assert bool((times == 1).all())


@given(lengths, st.integers(2, 7))
def test_showing_one_part_hides_all_the_others(length: int, parts: int) -> None:
    rest = covering_masks(length, MaskingConfig(parts, 1, "rest"), 3)
    part = covering_masks(length, MaskingConfig(parts, 1, "part"), 3)
    assert torch.equal(part, ~rest)
    assert int(part.sum(dim=1).min()) >= parts - 2


def test_masks_follow_from_the_seed() -> None:
    config = MaskingConfig(2, 2)
    assert torch.equal(covering_masks(64, config, 7), covering_masks(64, config, 7))
    assert not torch.equal(covering_masks(64, config, 7), covering_masks(64, config, 8))


@given(lengths, st.floats(0.01, 0.99))
def test_random_masks_hide_one_count_and_never_all_or_nothing(length: int, ratio: float) -> None:
    masks = random_masks(5, length, ratio, torch.Generator().manual_seed(1))
    counts = masks.sum(dim=1)
    assert bool((counts == counts[0]).all())
    assert 1 <= int(counts[0]) <= length - 1
    assert abs(int(counts[0]) - length * ratio) <= 1


def test_indices_split_a_mask_into_what_is_seen_and_what_is_not() -> None:
    masks = random_masks(4, 20, 0.6, torch.Generator().manual_seed(1))
    visible, hidden = split_indices(masks)
    assert visible.shape == (4, 8)
    assert hidden.shape == (4, 12)
    assert not bool(masks.gather(1, visible).any())
    assert bool(masks.gather(1, hidden).all())


def test_unequal_hidden_counts_cannot_share_a_batch() -> None:
    masks = torch.tensor([[True, False, False], [True, True, False]])
    with pytest.raises(ShapeError, match="one hidden count"):
        split_indices(masks)


@pytest.mark.parametrize("wrong", [{"parts": 1}, {"repeats": 0}, {"show": "all"}])
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MaskingConfig(**wrong)


@given(
    st.sampled_from(MASK_KINDS),
    st.integers(3, 15),
    st.integers(3, 15),
    st.floats(0.05, 0.95),
    st.integers(0, 1000),
)
def test_every_kind_of_mask_hides_one_count_and_never_all_or_nothing(
    kind: MaskKind, rows: int, cols: int, ratio: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    salience = torch.rand(6, rows * cols, generator=generator)
    masks = training_masks(
        kind, salience, Grid(rows, cols, 16), mask_ratio=ratio, generator=generator
    )
    counts = masks.sum(dim=1)
    assert bool((counts == counts[0]).all())
    assert 1 <= int(counts[0]) <= rows * cols - 1
    wanted = 0.5 if kind == "complementary" else ratio
    assert abs(int(counts[0]) - rows * cols * wanted) <= 1


def drawn(kind: MaskKind, salience: torch.Tensor | None = None) -> torch.Tensor:
    given_salience = torch.zeros(64, 196) if salience is None else salience
    return training_masks(
        kind,
        given_salience,
        Grid(14, 14, 16),
        mask_ratio=0.75,
        generator=torch.Generator().manual_seed(3),
    )


def neighbours_alike(masks: torch.Tensor) -> float:
    grid = masks.view(-1, 14, 14)
    return float((grid[:, 1:] == grid[:, :-1]).float().mean())


def test_blocks_hide_neighbours_together_and_a_grid_hides_them_apart() -> None:
    assert neighbours_alike(drawn("block")) > 0.85
    assert 0.55 < neighbours_alike(drawn("random")) < 0.7
    cells = drawn("grid").view(-1, 7, 2, 7, 2).sum(dim=(2, 4))
    assert bool((cells == 3).all())


def test_complementary_masks_hide_what_their_neighbour_shows() -> None:
    masks = drawn("complementary")
    assert bool((masks[1::2] == ~masks[::2]).all())


def test_salient_patches_are_hidden_more_often_but_not_always() -> None:
    salience = torch.randn(64, 196, generator=torch.Generator().manual_seed(1))
    masks = drawn("salient", salience)
    high, low = masks[salience > 1].float().mean(), masks[salience < -1].float().mean()
    assert 0.85 < float(high) < 1
    assert 0.3 < float(low) < 0.65
