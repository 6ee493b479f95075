"""Long pictures: bands on a square canvas, and results in the picture's own shape again."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomaly.bands import bands_of, folded, spread_grid, spread_shape, unfolded
from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.errors import ConfigError
from anomaly.preprocess import PreprocessConfig, place, placement_of
from anomaly.roi import Roi
from anomaly.types import Grid, RgbImage

BANDED = PreprocessConfig(canvas=96, bands=3)


@given(st.integers(1, 16), st.integers(1, 5), st.booleans())
def test_what_is_folded_is_unfolded_again(bands: int, cells: int, is_tall: bool) -> None:
    side = bands * cells
    shape = spread_shape(side, bands, is_tall=is_tall)
    assert bands_of(shape) == bands
    spread = np.arange(side * side * 2).reshape(*shape, 2)
    square = folded(spread)
    assert square.shape == (side, side, 2)
    np.testing.assert_array_equal(unfolded(square, shape), spread)


@pytest.mark.parametrize("is_tall", [False, True])
def test_a_strip_lies_on_the_canvas_band_by_band(is_tall: bool) -> None:
    strip = np.repeat(np.arange(9, dtype=np.uint8)[None], 32, 0).repeat(32, 1) * 20
    strip = np.repeat(strip[..., None], 3, 2)  # (32, 288, 3): nine squares
    if is_tall:
        strip = strip.transpose(1, 0, 2)
    canvas, placement = place(RgbImage(np.ascontiguousarray(strip)), BANDED)
    assert placement.canvas == ((288, 32) if is_tall else (32, 288))
    assert placement.scale == (1, 1)
    squares = (canvas[16::32, 16::32, 0] * 255 / 20).round().astype(int)
    wanted = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(squares, wanted.T if is_tall else wanted)


def test_a_letterbox_keeps_the_aspect_of_a_strip() -> None:
    config = PreprocessConfig(canvas=96, bands=3, fit="letterbox")
    canvas, placement = place(RgbImage(np.full((40, 576, 3), 128, np.uint8)), config)
    assert placement.box == (6, 0, 26, 288)
    assert canvas.shape == (96, 96, 3)
    assert placement.to_source(26, 288) == (40, 576)


@pytest.mark.parametrize("size", [(60, 540), (540, 60)])
def test_a_region_of_interest_counts_where_its_cells_lie(size: tuple[int, int]) -> None:
    grid, placement = Grid(12, 12, 8), placement_of(size, BANDED)
    inside = np.zeros(size, np.uint8)
    cv2.rectangle(inside, (0, 0), (size[1] // 3 - 1, size[0] // 3 - 1), 1, -1)
    cells = Roi.of_mask(inside.astype(bool)).mask(placement, grid).numpy().reshape(12, 12)
    spread = spread_grid(grid, placement.canvas)
    laid_out = unfolded(cells, (spread.rows, spread.cols))
    rows, columns = np.nonzero(laid_out)
    assert rows.max() < spread.rows / 3 + 1
    assert columns.max() < spread.cols / 3 + 1
    assert laid_out.mean() == pytest.approx(1 / 9, abs=0.05)


def test_bands_must_be_whole_patches() -> None:
    for wrong in ({"bands": 0}, {"bands": 17}, {"canvas": 224, "bands": 3}):
        with pytest.raises(ConfigError, match="bands"):
            PreprocessConfig(**wrong)


@pytest.mark.parametrize("is_tall", [False, True])
def test_a_detection_lies_as_the_picture_does(tiny_bundle: Bundle, is_tall: bool) -> None:
    model, calibration = tiny_bundle.model, tiny_bundle.calibration
    assert calibration is not None
    grid = model.target.map_grid
    placement = placement_of((400, 100) if is_tall else (100, 400), PreprocessConfig(64, bands=2))
    detector = Detector(model, calibration)
    canvas = torch.full((1, 3, 64, 64), 0.5)
    square, strip = (
        detector.detect_canvases(canvas, [place_])[0]
        for place_ in (placement_of((64, 64), PreprocessConfig(64)), placement)
    )
    assert strip.pred_score == square.pred_score
    assert strip.patch_scores.shape == spread_shape(grid.rows, 2, is_tall=is_tall)
    assert strip.anomaly_map.shape == placement.canvas
    np.testing.assert_array_equal(folded(strip.patch_scores), square.patch_scores)
