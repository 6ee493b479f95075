import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.expectation import (
    as_canvas,
    as_picture,
    distance_between,
    expected_tokens,
    find_pieces,
    patches_of,
    suspicious_cells,
    tokens_of,
    usual_distance,
)
from anomaly.preprocess import PreprocessConfig, place, placement_of
from anomaly.types import Grid, RgbImage
from tests.conftest import normal_pixels, planted


def canvas(bundle: Bundle, pixels: np.ndarray) -> torch.Tensor:
    placed, _ = place(RgbImage(pixels), bundle.model.config.preprocess)
    return torch.from_numpy(placed).permute(2, 0, 1)


def test_a_prediction_of_what_is_hidden_does_not_know_it(tiny_bundle: Bundle) -> None:
    good, bad = normal_pixels(6001), planted(normal_pixels(6001), 72, 42, 6)
    hidden = np.zeros((8, 8), np.bool_)
    hidden[2:5, 3:6] = True
    mask = as_canvas(hidden)
    expected = expected_tokens(tiny_bundle.model, canvas(tiny_bundle, bad), mask)
    blind = expected_tokens(tiny_bundle.model, canvas(tiny_bundle, good), mask)
    torch.testing.assert_close(expected, blind)  # the defect lies in what is hidden
    there = tokens_of(tiny_bundle.model, canvas(tiny_bundle, good))
    defective = tokens_of(tiny_bundle.model, canvas(tiny_bundle, bad))
    torch.testing.assert_close(expected[~mask], there[~mask])
    assert (expected - there).square().mean() < (defective - there).square().mean() / 3


def test_where_nothing_is_in_view_what_is_there_is_expected(tiny_bundle: Bundle) -> None:
    pixels = canvas(tiny_bundle, normal_pixels(6001))
    expected = expected_tokens(tiny_bundle.model, pixels, torch.ones(64, dtype=torch.bool))
    torch.testing.assert_close(expected, tokens_of(tiny_bundle.model, pixels))


@pytest.mark.parametrize("highest", [9.0, 0.5, 0.0, -2.0])
def test_some_cells_are_always_suspicious_with_their_neighbours(highest: float) -> None:
    scores = np.full((6, 8), highest - 10, np.float32)
    scores[2, 3] = highest
    cells = suspicious_cells(scores, map_threshold=highest - 0.01 if highest > 1 else 3.0)
    assert cells[1:4, 2:5].all()
    assert patches_of(cells, 2)[0, 1]
    assert cells.sum() == 9


def test_a_long_picture_s_patches_lie_as_the_picture_does() -> None:
    config = PreprocessConfig(canvas=64, bands=2)
    placement = placement_of((40, 200), config)
    grid = Grid(8, 8, 8)
    tokens = torch.arange(64).float()[:, None]
    laid = as_picture(tokens, grid, placement)
    assert laid.shape == (4, 16, 1)
    assert laid[0, 8, 0] == 32  # the second band lies below the first on the canvas
    mask = np.zeros((4, 16), np.bool_)
    mask[1, 9] = True
    (at,) = as_canvas(mask).nonzero().flatten().tolist()
    assert laid[1, 9, 0] == at


def test_a_block_comes_from_the_normal_part_and_place_that_has_it() -> None:
    generator = np.random.default_rng(0)
    normals = generator.normal(size=(5, 12, 14, 6)).astype(np.float32)
    hidden = np.zeros((12, 14), np.bool_)
    hidden[4:7, 5:9] = True
    expected = np.roll(normals[3], (-2, 1), axis=(0, 1))
    (piece,) = find_pieces(expected, hidden, normals)
    best = piece.origins[0]
    assert (best.normal, best.shift) == (3, (2, -1))
    assert best.distance == pytest.approx(0, abs=1e-3)
    assert piece.origins[1].distance > 1
    assert len({origin.normal for origin in piece.origins}) == len(piece.origins) == 3
    usual = usual_distance(piece, normals)
    assert usual is not None
    assert 1 < usual < 2
    assert usual_distance(piece, normals[:1]) is None


def test_blocks_cover_what_is_hidden_once_and_are_few() -> None:
    normals = np.zeros((2, 40, 40, 1), np.float32)
    hidden = np.random.default_rng(0).random((40, 40)) < 0.6
    pieces = find_pieces(normals[0], hidden, normals)
    covered = np.sum([piece.patches for piece in pieces], axis=0)
    assert (covered == hidden).all()
    everywhere = find_pieces(normals[0], np.ones((40, 40), np.bool_), normals)
    assert len(everywhere) <= 32


def test_parts_are_compared_where_nothing_is_hidden() -> None:
    part, normal = np.zeros((4, 4, 2), np.float32), np.ones((4, 4, 2), np.float32)
    hidden = np.zeros((4, 4), np.bool_)
    hidden[0, 0] = True
    part[0, 0] = 100
    assert distance_between(part, normal, hidden) == pytest.approx(1)
    assert distance_between(part, normal, np.ones((4, 4), np.bool_)) > 20
