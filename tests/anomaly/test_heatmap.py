import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.heatmap import (
    as_uint8,
    canvas_map,
    encode_jpeg,
    encode_png,
    find_regions,
    grey_png,
    heat,
    overlay,
    source_map,
)
from anomaly.preprocess import PreprocessConfig, place
from anomaly.types import Detection, Grid, Placement, RgbImage

GRID = Grid(8, 8, 8)


def placement(size: tuple[int, int], fit: str = "stretch") -> Placement:
    image = RgbImage(np.zeros((*size, 3), np.uint8))
    return place(image, PreprocessConfig(canvas=64, fit=fit))[1]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(32, 400), st.integers(32, 400)),
    st.tuples(st.floats(0.15, 0.85), st.floats(0.15, 0.85)),
    st.sampled_from(["stretch", "letterbox"]),
)
def test_a_peak_returns_to_the_callers_pixels(
    size: tuple[int, int], where: tuple[float, float], fit: str
) -> None:
    """A bright canvas spot at a place of the image comes back at that place, whatever the shape."""
    placed = placement(size, fit)
    top, left, bottom, right = placed.box
    y, x = top + where[0] * (bottom - top), left + where[1] * (right - left)
    rows, cols = np.mgrid[0:64, 0:64] + 0.5
    spot = np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / 18).astype(np.float32)
    [region] = find_regions(spot, placed, 0.5)
    wanted = where[1] * size[1], where[0] * size[0]
    tolerance = 1.0 * max(placed.scale) + 1
    assert region.peak == pytest.approx(wanted, abs=tolerance)
    assert region.centroid == pytest.approx(wanted, abs=2.5 * tolerance)
    box_x, box_y, width, height = region.bbox
    assert 0 <= box_x <= region.peak[0] < box_x + width <= size[1]
    assert 0 <= box_y <= region.peak[1] < box_y + height <= size[0]
    assert 0 < region.area_px <= size[0] * size[1]


def test_regions_are_apart_sorted_and_without_specks() -> None:
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[5:10, 5:10] = 2
    anomaly_map[40:50, 30:40] = 3
    anomaly_map[60, 60] = 9  # a single pixel
    regions = find_regions(anomaly_map, placement((128, 64)), 1.0)
    assert [r.peak_score for r in regions] == [3.0, 2.0]
    assert regions[0].bbox == (30, 80, 10, 20)
    assert regions[0].area_px == 200


def test_nothing_above_the_level_is_no_region() -> None:
    assert find_regions(np.ones((64, 64), np.float32), placement((64, 64)), 1.0) == ()


def test_the_scale_is_fixed_by_the_threshold_alone() -> None:
    values = np.array([[-3.0, 0.0, 2.0, 4.0, 100.0]], np.float32)
    assert heat(values, 4.0).tolist() == [[0, 0, 0.25, 0.5, 1.0]]


def test_grey_png_has_the_callers_size_and_128_at_the_threshold() -> None:
    flat = np.full((64, 64), 3.0, np.float32)
    data = grey_png(flat, 3.0, placement((123, 77)))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.shape == (123, 77)
    assert (decoded == 128).all()


def test_patches_become_maps_in_place() -> None:
    scores = np.zeros(64, np.float32)
    scores[8 * 2 + 5] = 1
    large = canvas_map(scores, GRID, (64, 64))
    assert large.shape == (64, 64)
    peak = np.unravel_index(large.argmax(), large.shape)
    assert 16 <= peak[0] < 24
    assert 40 <= peak[1] < 48
    assert source_map(large, placement((30, 90))).shape == (30, 90)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_overlay_tints_only_what_is_hot(dtype: type) -> None:
    white = np.iinfo(dtype).max
    image = RgbImage(np.full((80, 100, 3), white // 2, dtype))
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[20:40, 20:40] = 8.0
    placed = placement((80, 100))
    regions = find_regions(anomaly_map, placed, 4.0)
    grid = np.zeros((8, 8), np.float32)
    found = Detection(9.0, 0.0, 0.01, grid, anomaly_map, placed, 4.0, 4.0, True, regions)
    picture = overlay(image, found)
    assert picture.shape == (80, 100, 3)
    assert picture.dtype == np.uint8
    assert picture[5, 5].tolist() == as_uint8(image, 65535)[5, 5].tolist()
    assert np.ptp(picture[37, 45]) > 40
    assert picture[regions[0].bbox[1], regions[0].bbox[0]].tolist() == [255, 255, 255]
    png = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(png[..., ::-1], picture)
    assert encode_jpeg(picture)[:2] == b"\xff\xd8"
