from functools import partial

import cv2
import numpy as np
import pytest
import torch

from anomaly.bands import spread_grid
from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.expectation import (
    Origin,
    Piece,
    as_canvas,
    as_picture,
    expected_tokens,
    find_pieces,
    patches_of,
    suspicious_cells,
    tokens_of,
)
from anomaly.inlay import Scene, inlay
from anomaly.preprocess import PreprocessConfig, place, placement_of
from anomaly.types import Grid, RgbImage
from tests.conftest import normal_pixels, planted


def scene(picture: np.ndarray, config: PreprocessConfig, patch: int = 8, cells: int = 1) -> Scene:
    placement = placement_of(picture.shape[:2], config)
    side = config.canvas // patch
    grid = spread_grid(Grid(side, side, patch, cells), placement.canvas)
    return Scene(picture, placement, grid)


def textured(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def error(picture: np.ndarray, good: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(picture[where].astype(float) - good[where]).mean())


def test_a_planted_defect_is_replaced_by_what_was_there_before(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.calibration is not None
    model, detector = tiny_bundle.model, Detector(tiny_bundle.model, tiny_bundle.calibration)
    config, grid = model.config.preprocess, model.target.grid

    def pixels(part: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(place(RgbImage(part), config)[0]).permute(2, 0, 1)

    normals = [normal_pixels(3000 + i) for i in range(8)]
    tokens = np.stack(
        [
            as_picture(tokens_of(model, pixels(part)), grid, placement_of((96, 128), config))
            for part in normals
        ]
    )
    for seed, (x, y) in enumerate([(80, 40), (30, 48), (60, 70)]):
        good = normal_pixels(6100 + seed)
        bad = planted(good, x, y, 10)
        (detection,) = detector.detect([RgbImage(bad)])
        assert detection.verdict == "NG"
        cells = suspicious_cells(detection.patch_scores, detection.map_threshold)
        hidden = patches_of(cells, model.target.map_grid.cells)
        expected = expected_tokens(model, pixels(bad), as_canvas(hidden))
        part = scene(bad, config)
        pieces = find_pieces(as_picture(expected, grid, part.placement), hidden, tokens)
        made = inlay(part, cells, pieces, lambda number: scene(normals[number], config))
        defect = np.zeros(bad.shape[:2], np.bool_)
        defect[y - 10 : y + 10, x - 10 : x + 10] = True
        assert error(made.picture, good, defect) < error(bad, good, defect) / 5
        region = part.pixels_of(cells)
        assert (made.picture[~region] == bad[~region]).all()
        assert region[defect].mean() > 0.9


def unblended(region: np.ndarray, part: Scene) -> np.ndarray:
    """Where nothing of the part's own picture is seen any more."""
    side = 2 * int(np.ceil(part.grid.patch * max(part.scale) / 2)) + 1
    deep = cv2.erode(region.astype(np.uint8), np.ones((side, side), np.uint8))
    assert deep.any()
    return deep.astype(np.bool_)


@pytest.mark.parametrize(
    ("size", "config"),
    [
        ((96, 128), PreprocessConfig(canvas=64)),
        ((96, 128), PreprocessConfig(canvas=64, fit="letterbox")),
        ((300, 50), PreprocessConfig(canvas=64, bands=2)),
        ((40, 520), PreprocessConfig(canvas=64, bands=2, fit="letterbox")),
    ],
)
def test_a_turned_and_darker_normal_part_is_made_to_fit(
    size: tuple[int, int], config: PreprocessConfig
) -> None:
    good = textured(size)
    part = scene(good.copy(), config)
    cells = np.zeros((part.grid.rows, part.grid.cols), np.bool_)
    middle = part.grid.rows // 2, part.grid.cols // 2
    cells[middle[0] - 1 : middle[0] + 1, middle[1] - 1 : middle[1] + 1] = True
    region = part.pixels_of(cells)
    part.picture[region] = 0
    turn = cv2.getRotationMatrix2D((size[1] / 2, size[0] / 2), 2, 1)
    turn[:, 2] += 1.5, -1
    normal = cv2.warpAffine(good, turn, size[::-1], borderMode=cv2.BORDER_REPLICATE)
    darker = scene((normal * 0.8).astype(np.uint8), config)
    piece = Piece(cells, (Origin(0, (0, 0), 0.0),))
    made = inlay(part, cells, [piece], lambda number: darker)
    assert (made.picture[~region] == good[~region]).all()
    deep = unblended(region, part)
    assert error(made.picture, good, deep) < 0.5 * error(darker.picture, good, deep)


def test_a_piece_that_fits_as_a_picture_is_preferred_and_named() -> None:
    config = PreprocessConfig(canvas=64)
    good = textured((128, 128))
    cells = np.zeros((8, 8), np.bool_)
    cells[3:5, 3:5] = True
    scenes = [scene(textured((128, 128), 1), config), scene(good, config)]
    nearest_first = Origin(0, (0, 0), 0.1), Origin(1, (0, 0), 0.2)
    made = inlay(scene(good, config), cells, [Piece(cells, nearest_first)], scenes.__getitem__)
    assert made.origins == (nearest_first[1],)


def test_a_shifted_piece_comes_from_there() -> None:
    config = PreprocessConfig(canvas=64)
    good = textured((128, 128))
    moved = np.roll(good, (16, -16), axis=(0, 1))  # one patch down, one to the left
    cells = np.zeros((8, 8), np.bool_)
    cells[3:5, 3:5] = True
    part = scene(np.where(scene(good, config).pixels_of(cells)[..., None], 0, good), config)
    piece = Piece(cells, (Origin(0, (1, -1), 0.0),))
    made = inlay(part, cells, [piece], partial(lambda picture, _: scene(picture, config), moved))
    region = part.pixels_of(cells)
    assert error(made.picture, good, unblended(region, part)) < 2


def test_a_region_of_the_whole_picture_is_a_normal_part() -> None:
    config = PreprocessConfig(canvas=64)
    everywhere = np.ones((8, 8), np.bool_)
    normal = textured((96, 128))
    piece = Piece(everywhere, (Origin(0, (0, 0), 0.0),))
    part = scene(textured((96, 128), 1), config)
    made = inlay(part, everywhere, [piece], lambda number: scene(normal, config))
    inner = np.zeros((96, 128), np.bool_)
    inner[8:-8, 8:-8] = True
    assert error(made.picture, normal, inner) < 1
