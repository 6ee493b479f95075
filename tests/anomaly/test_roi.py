import json

import numpy as np
import pytest
import torch

from anomaly.errors import RoiInvalid
from anomaly.preprocess import PreprocessConfig, placement_of
from anomaly.roi import Roi, read_roi
from anomaly.types import Grid
from tests.conftest import png

GRID = Grid(8, 8, 8)


def counted(roi: Roi, size: tuple[int, int] = (96, 128), fit: str = "stretch") -> torch.Tensor:
    config = PreprocessConfig(64, "letterbox" if fit == "letterbox" else "stretch")
    return roi.mask(placement_of(size, config), GRID).view(8, 8)


def test_polygons_are_in_the_pixels_of_the_image_they_name() -> None:
    left_half = [[0, 0], [64, 0], [64, 96], [0, 96]]
    roi = read_roi(json.dumps({"include": [left_half], "size": [128, 96]}).encode())
    assert roi.share == pytest.approx(0.5, abs=0.01)
    found = counted(roi)
    assert bool(found[:, :4].all())
    assert not bool(found[:, 4:].any())
    assert bool((counted(roi, (900, 300)) == found).all())  # shares of whatever size comes


def test_what_is_ignored_goes_from_what_is_included() -> None:
    corner = [[0.5, 0.5], [1, 0.5], [1, 1], [0.5, 1]]
    found = counted(read_roi(json.dumps({"ignore": [corner]}).encode()))
    assert not bool(found[4:, 4:].any())
    assert int(found.sum()) == 64 - 16


def test_a_mask_image_says_the_same_as_its_polygon() -> None:
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[24:72, 32:96] = 255
    polygon = [[32, 24], [96, 24], [96, 72], [32, 72]]
    drawn = read_roi(json.dumps({"include": [polygon], "size": [128, 96]}).encode())
    np.testing.assert_array_equal(counted(read_roi(png(mask))), counted(drawn))


def test_letterboxed_borders_do_not_count() -> None:
    found = counted(Roi.of_polygons([], [[(0, 0), (0.1, 0), (0, 0.1)]]), (64, 128), "letterbox")
    assert not bool(found[:2].any())
    assert not bool(found[6:].any())
    assert bool(found[3:5].all())


def test_reaching_further_is_noticed() -> None:
    left = Roi.of_polygons([[(0, 0), (0.5, 0), (0.5, 1), (0, 1)]])
    whole = Roi(np.ones((512, 512), bool))
    assert whole.reaches_beyond(left)
    assert not left.reaches_beyond(whole)
    assert not left.reaches_beyond(left)


def test_a_sliver_still_leaves_a_cell() -> None:
    sliver = Roi.of_polygons([[(0.49, 0.3), (0.51, 0.3), (0.51, 0.7), (0.49, 0.7)]])
    assert int(counted(sliver).sum()) >= 1


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (b"", "neither JSON"),
        (b"{", "cannot be read"),
        (b"{}", "no polygon"),
        (b'{"include": [[[0, 0], [1, 1]]]}', "three points"),
        (b'{"include": [[[0, 0], [2, 0], [2, 2]]]}', "outside the image"),
        (b'{"include": [[[0, 0], [NaN, 0], [1, 1]]]}', "outside the image"),
        (b'{"include": [[[0, 0], [1, 0], [1, 1]]], "size": [0, 1]}', "width and height"),
        (b'{"include": 3}', "cannot be read"),
        (b'{"exclude": []}', "unknown keys"),
        (b'{"include": [[[0, 0], [0.001, 0], [0, 0.001]]]}', "thousandth"),
        (b"\xff\xd8\xff", "neither JSON"),
    ],
)
def test_bad_regions_are_refused_with_the_reason(told: bytes, reason: str) -> None:
    with pytest.raises(RoiInvalid, match=reason):
        read_roi(told)


def test_too_many_points_are_refused() -> None:
    polygon = [[0.5, 0.5]] * 10_001
    with pytest.raises(RoiInvalid, match="draw it as a mask"):
        read_roi(json.dumps({"include": [polygon]}).encode())


def test_a_damaged_mask_is_no_region() -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[24:72, 32:96] = 1  # dark, but not black
    whole = png(mask)
    assert read_roi(whole).share == pytest.approx(0.25, abs=0.01)
    at = whole.index(b"IDAT") + 8
    with pytest.raises(RoiInvalid, match="checksum"):
        read_roi(whole[:at] + bytes(8) + whole[at + 8 :])
