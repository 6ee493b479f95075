import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.annotations.rle import brush_code, brush_pixels, coco_counts, coco_text
from training.annotations.shapes import Outlines, Runs, outline, rectangle
from training.errors import DataError

masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(masks)
def test_an_outline_gives_its_mask_again(mask: np.ndarray) -> None:
    ring = outline(mask)
    again = Outlines((ring,)).pixels(mask.shape) if len(ring) else np.zeros_like(mask)
    np.testing.assert_array_equal(again, mask)


@given(masks)
def test_runs_give_their_mask_again_also_as_text(mask: np.ndarray) -> None:
    runs = Runs.of(mask)
    np.testing.assert_array_equal(runs.pixels(mask.shape), mask)
    assert coco_counts(coco_text(runs.counts), "x") == runs.counts.tolist()


@settings(deadline=None)
@given(masks)
def test_a_brush_gives_its_mask_again(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(brush_pixels(brush_code(mask), mask.shape, "x"), mask)


def test_runs_longer_than_a_brush_can_count_are_split() -> None:
    mask = np.zeros((300, 400), bool)
    mask[10] = True
    np.testing.assert_array_equal(brush_pixels(brush_code(mask), mask.shape, "x"), mask)


def test_a_brush_of_literal_values_is_read() -> None:
    """Label Studio stores what does not repeat as it is: here one pixel, half transparent."""
    bits = f"{4:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + "011"
    bits += "".join(f"{value:08b}" for value in (200, 30, 40, 128))
    code = np.packbits(np.array([int(bit) for bit in bits], np.uint8)).tolist()
    assert brush_pixels(code, (1, 1), "x").tolist() == [[True]]


def test_coco_text_is_what_pycocotools_writes() -> None:
    """From `pycocotools.mask.encode` 2.0.11; maskApi.c describes the letters."""
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:8] = True
    mask[3, 4] = False
    mask[0, 0] = mask[6, 8] = True
    assert coco_text(Runs.of(mask).counts) == "01f02^ONM03200004N"
    wide = np.zeros((300, 400), bool)
    wide[50:250, 100:300] = True
    assert coco_text(Runs.of(wide).counts) == "R[m0X6T3" + "0" * 397 + "nWm0"


@pytest.mark.parametrize("text", ["0é", "0\x01", "P" * 20, "o"])
def test_damaged_coco_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^x has .*run lengths"):
        coco_counts(text, "x")


def test_a_pixel_belongs_to_the_ring_that_holds_its_centre() -> None:
    triangle = Outlines((np.array([[0, 0], [4, 0], [0, 4]], float),))
    assert triangle.pixels((4, 4)).sum(1).tolist() == [3, 2, 1, 0]  # centres on the edge stay out
    thin = Outlines((np.array([[0, 1.6], [4, 1.6], [4, 2.4], [0, 2.4]]),))
    assert not thin.pixels((4, 4)).any()


def test_rings_together_are_their_union() -> None:
    square = rectangle((0, 0, 3, 3)).rings[0]
    both = Outlines((square, square + 1))
    assert both.pixels((5, 5)).sum() == 14
    assert both.box() == (0, 0, 4, 4)


def test_an_empty_mask_has_no_box() -> None:
    assert Runs.of(np.zeros((3, 4), bool)).box() == (0, 0, 0, 0)
    assert outline(np.zeros((3, 4), bool)).shape == (0, 2)


def test_runs_are_of_one_size() -> None:
    with pytest.raises(ValueError, match="want the size"):
        Runs.of(np.zeros((3, 4), bool)).pixels((4, 3))
