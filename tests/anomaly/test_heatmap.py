import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly import heatmap
from anomaly.heatmap import (
    anomalous_pixels,
    as_uint8,
    canvas_map,
    encode_jpeg,
    encode_png,
    find_regions,
    grey_png,
    heat,
    overlay,
    picture_size,
    region_level,
    sharpened,
    source_map,
)
from anomaly.preprocess import PreprocessConfig, place, placement_of
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
    scores = np.zeros((8, 8), np.float32)
    scores[2, 5] = 1
    large = canvas_map(scores, (64, 64))
    assert large.shape == (64, 64)
    peak = np.unravel_index(large.argmax(), large.shape)
    assert 16 <= peak[0] < 24
    assert 40 <= peak[1] < 48
    assert source_map(large, placement((30, 90))).shape == (30, 90)


def hills(*peaks: tuple[int, float, float]) -> np.ndarray:
    """A map of (column, height, width) Gaussians in one row of places, (64, 64) float32."""
    rows, columns = np.mgrid[0:64, 0:64]
    shapes = [
        height * np.exp(-((rows - 32) ** 2 + (columns - at) ** 2) / (2 * width**2))
        for at, height, width in peaks
    ]
    return np.max(shapes, axis=0).astype(np.float32)


@pytest.mark.parametrize("height", [3.0, 10.0, 1000.0])
def test_a_region_ends_at_half_of_its_peak_however_strong_it_is(height: float) -> None:
    [region] = find_regions(hills((30, height, 4)), placement((64, 64)), 1.0)
    assert region.peak == (30, 32)
    assert region.bbox[2] == region.bbox[3]
    assert region.bbox[2] == pytest.approx(2.355 * 4, abs=1.5)  # full width at half maximum
    assert region.area_px == pytest.approx(np.pi * (2.355 * 2) ** 2, rel=0.15)


def test_a_weak_region_ends_at_the_threshold() -> None:
    [region] = find_regions(hills((30, 2.0, 4)), placement((64, 64)), 1.8)
    assert region.bbox[2] < 5


def test_a_threshold_below_zero_bounds_regions_by_itself() -> None:
    flat = np.full((64, 64), -3.0, np.float32)
    flat[20:30, 40:50] = -1
    [region] = find_regions(flat, placement((64, 64)), -2.0)
    assert region.bbox == (40, 20, 10, 10)


def test_a_weaker_defect_beside_a_strong_one_is_not_lost() -> None:
    regions = find_regions(hills((14, 10, 4), (44, 4, 3)), placement((64, 64)), 0.001)
    assert [region.peak[0] for region in regions] == [14, 44]
    assert [round(region.peak_score) for region in regions] == [10, 4]


def detail_of(*squares: tuple[int, int, int, int]) -> np.ndarray:
    """Sure of the pixels in squares (top, left, height, width), (64, 64) uint8."""
    detail = np.zeros((64, 64), np.uint8)
    for top, left, height, width in squares:
        detail[top : top + height, left : left + width] = 255
    return detail


def test_a_map_is_gathered_on_the_altered_pixels_and_keeps_its_height() -> None:
    coarse = hills((30, 10, 6))
    fine = sharpened(coarse, detail_of((31, 26, 2, 9)), 4.0)
    assert fine.max() == pytest.approx(coarse.max(), rel=1e-6)
    assert fine[31, 30] > 9
    assert (fine[(coarse > 0.1) & (detail_of((31, 26, 2, 9)) == 0)] < 2).all()
    [region] = find_regions(fine, placement((64, 64)), 4.0, coarse)
    assert region.bbox == (26, 31, 9, 2)
    assert region.peak_score == pytest.approx(coarse.max(), rel=1e-6)


def test_a_place_of_which_the_detail_sees_nothing_keeps_its_shape() -> None:
    coarse = hills((14, 10, 4), (46, 8, 4))
    fine = sharpened(coarse, detail_of((31, 12, 2, 4)), 4.0)  # of the left one alone
    unseen = (coarse > 2) & (np.arange(64) > 30)  # down to the hill's foot
    np.testing.assert_allclose(fine[unseen], coarse[unseen], rtol=1e-6)
    assert [r.peak[0] // 16 for r in find_regions(fine, placement((64, 64)), 4.0, coarse)] == [0, 2]
    blind = sharpened(coarse, np.zeros((64, 64), np.uint8), 4.0)
    np.testing.assert_allclose(blind, coarse, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 3.0))
def test_nothing_new_rises_above_the_level(seed: int, level: float) -> None:
    generator = np.random.default_rng(seed)
    coarse = cv2.resize(generator.normal(0, 1.5, (8, 8)).astype(np.float32), (64, 64))
    detail = cv2.resize(generator.integers(0, 256, (16, 16)).astype(np.uint8), (64, 64))
    fine = sharpened(coarse, detail, level)
    assert fine.shape == coarse.shape
    assert bool(np.isfinite(fine).all())
    assert not (fine > level)[coarse <= level].any()
    count, labels = cv2.connectedComponents((coarse > 0.5 * level).astype(np.uint8))
    for hill in range(1, count):
        height = coarse[labels == hill].max()
        if height > level:
            assert fine[labels == hill].max() == pytest.approx(height, rel=1e-5)
    parts = find_regions(coarse, placement((64, 64)), level)
    narrow = find_regions(fine, placement((64, 64)), level, coarse)
    assert bool(narrow) == bool(parts)  # what is rejected always shows where
    assert len(narrow) <= len(parts)


def test_the_pieces_of_a_broken_line_are_one_region() -> None:
    coarse = hills((24, 10, 8), (38, 10, 8))
    pieces = [(31, column, 2, 4) for column in (16, 24, 32, 40)]
    fine = sharpened(coarse, detail_of(*pieces), 4.0)
    [region] = find_regions(fine, placement((64, 64)), 4.0, coarse)
    x, y, width, height = region.bbox
    assert (y, height) == (31, 2)
    assert x <= 24
    assert x + width >= 36
    assert region.area_px < width * height  # the gaps are not of it
    assert len(find_regions(fine, placement((64, 64)), 4.0)) > 1


def test_what_stands_beside_the_altered_pixels_is_no_region_of_its_own() -> None:
    coarse = np.maximum(hills((20, 10, 5)), hills((40, 6, 3)))
    coarse = np.maximum(coarse, np.where(hills((30, 1, 14)) > 0.6, 3, 0)).astype(np.float32)
    assert len(find_regions(coarse, placement((64, 64)), 5.0)) == 2
    fine = sharpened(coarse, detail_of((31, 18, 3, 4)), 5.0)
    [region] = find_regions(fine, placement((64, 64)), 5.0, coarse)
    assert region.bbox == (18, 31, 4, 3)


def test_the_level_of_regions_shows_something_of_every_part() -> None:
    assert region_level(hills((30, 10, 4)), 3.0) == 3
    assert region_level(hills((30, 2, 4)), 3.0) == pytest.approx(1.4)


def test_a_bump_on_a_slope_is_no_defect_of_its_own() -> None:
    slope = hills((20, 10, 8)) + hills((33, 0.3, 1))
    assert len(find_regions(slope, placement((64, 64)), 0.5)) == 1


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


def test_a_box_on_a_strip_is_drawn_with_a_thin_line() -> None:
    anomaly_map = np.zeros((32, 1152), np.float32)
    anomaly_map[12:16, 600:604] = 4.0
    placed = placement_of((128, 4608), PreprocessConfig(canvas=192, bands=6))
    regions = find_regions(anomaly_map, placed, 2.0)
    marked = Detection(9.0, 0.0, 0.01, anomaly_map, anomaly_map, placed, 4.0, 4.0, True, regions)
    picture = overlay(RgbImage(np.zeros((128, 4608, 3), np.uint8)), marked)
    x, y, width, height = regions[0].bbox
    line = (picture[y + height // 2, x - 20 : x + width // 2] == 255).all(axis=1)
    assert 1 <= line.sum() <= 3


def drawn(size: tuple[int, int], seed: int) -> tuple[RgbImage, Detection]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    small = generator.uniform(0, 8, (8, 8)).astype(np.float32)
    anomaly_map = canvas_map(small, (64, 64))
    found = Detection(9.0, 0.0, 0.01, small, anomaly_map, placement(size), 4.0, 4.0, True)
    return RgbImage(pixels), found


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 700), st.integers(16, 300), st.integers(0, 5))
def test_a_picture_drawn_in_strips_is_the_one_drawn_whole(
    height: int, width: int, seed: int
) -> None:
    image, found = drawn((height, width), seed)
    whole = source_map(found.anomaly_map, found.placement)
    level = heat(whole, found.map_threshold)
    colours = cv2.applyColorMap((level * 256).clip(0, 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    weight = np.clip((level - 0.25) * 1.5, 0, 0.6)[..., None]
    wanted = image.pixels * (1 - weight) + colours[..., ::-1] * weight
    differs = np.abs(overlay(image, found) - wanted).max(axis=2) > 4
    assert differs.mean() < 0.001  # rounding at a step of the colour map
    grey = grey_png(found.anomaly_map, found.map_threshold, found.placement)
    decoded = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED).astype(int)
    assert np.abs(decoded - (level * 256).clip(0, 255)).max() < 1.01
    above = anomalous_pixels(found.anomaly_map, found.placement, 4.0)
    assert (above != (whole > 4.0)).mean() < 0.001


@given(st.integers(16, 200_000), st.integers(16, 200_000))
def test_a_picture_has_the_images_size_or_a_half_or_quarter_that_fits(
    height: int, width: int
) -> None:
    size = picture_size((height, width))
    assert size[0] * size[1] <= 32_000_000
    factor = next(f for f in (2**n for n in range(12)) if -(-height // f) == size[0])
    assert size == (-(-height // factor), -(-width // factor))
    if factor > 1:
        assert (2 * size[0]) * (2 * size[1]) > 32_000_000


def test_what_is_too_large_is_drawn_at_half_with_its_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    image, found = drawn((200, 120), 1)
    hot = np.zeros((64, 64), np.float32)
    hot[16:32, 16:32] = 8
    regions = find_regions(hot, found.placement, 4.0)
    found = Detection(9, 0, 0.01, hot[:8, :8], hot, found.placement, 4.0, 4.0, True, regions)
    monkeypatch.setattr(heatmap, "_MOST_PICTURE_PX", 200 * 120 - 1)
    picture = overlay(image, found)
    assert picture.shape == (100, 60, 3)
    x, y = (value // 2 for value in regions[0].bbox[:2])
    assert picture[y, x].tolist() == [255, 255, 255]
    small = cv2.resize(image.pixels, (60, 100), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(picture[60:, 40:], small[60:, 40:])
    reduced = RgbImage(np.ascontiguousarray(small), sent=(200, 120))  # as a JPEG is decoded
    np.testing.assert_array_equal(overlay(reduced, found), picture)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_overlay_holds_little_beside_the_picture(dtype: type) -> None:
    size = 2000, 2000
    _, found = drawn(size, 2)
    image = RgbImage(np.zeros((*size, 3), dtype))
    tracemalloc.start()
    overlay(image, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 3 * size[0] * size[1]
