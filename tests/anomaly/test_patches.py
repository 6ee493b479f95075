import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomaly.errors import ShapeError
from anomaly.patches import fold_cells, grid_of, patchify, refine, unfold_cells, unpatchify
from anomaly.types import Grid


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([2, 4, 8]), st.integers(1, 4))
def test_unpatchify_undoes_patchify(batch: int, channels: int, patch: int, across: int) -> None:
    grid = grid_of(patch * across, patch)
    pixels = torch.rand(batch, channels, patch * across, patch * across)
    patches = patchify(pixels, grid)
    assert patches.shape == (batch, across * across, patch * patch * channels)
    assert torch.equal(unpatchify(patches, grid), pixels)


def test_patches_run_along_rows_and_channels_come_last() -> None:
    pixels = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    pixels[:, 1] += 100
    patches = patchify(pixels, grid_of(4, 2))
    assert patches[0, 1].tolist() == [2, 102, 3, 103, 6, 106, 7, 107]


def test_wrong_shapes_name_the_wanted_and_the_found() -> None:
    with pytest.raises(ShapeError, match=r"wanted \(B, C, 8, 8\), found \(1, 3, 9, 8\)"):
        patchify(torch.zeros(1, 3, 9, 8), grid_of(8, 4))
    with pytest.raises(ShapeError, match="patches"):
        unpatchify(torch.zeros(1, 5, 48), grid_of(8, 4))
    with pytest.raises(ShapeError, match="divisible by 16"):
        grid_of(40, 16)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_unfolded_cells_run_along_rows_of_the_fine_grid(
    rows: int, cols: int, cells: int, channels: int
) -> None:
    grid = Grid(rows, cols, 12)
    maps = torch.rand(2, channels, rows * cells, cols * cells)
    tokens = fold_cells(maps, grid, cells)
    assert tokens.shape == (2, rows * cols, cells**2 * channels)
    assert torch.equal(unfold_cells(tokens, grid, cells), maps.flatten(2).transpose(1, 2))


def test_refining_keeps_a_constant_and_the_place_of_a_peak() -> None:
    grid = Grid(3, 4, 8)
    assert torch.equal(refine(torch.ones(2, 5, 12), grid, 2), torch.ones(2, 5, 48))
    peak = torch.zeros(1, 12)
    peak[0, 6] = 1  # row 1, column 2
    fine = refine(peak, grid, 2).view(6, 8)
    assert divmod(int(fine.argmax()), 8) in [(2, 4), (2, 5), (3, 4), (3, 5)]
