import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from anomaly.types import Placement
from supervised.masks import kind_masks, run_lengths
from supervised.types import Answer


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_give_the_mask_again(mask: np.ndarray) -> None:
    counts = run_lengths(mask.ravel(order="F"))
    values = np.arange(len(counts)) % 2 == 1
    flat = np.repeat(values, counts)
    assert np.array_equal(flat.reshape(mask.T.shape).T, mask)
    assert all(count > 0 for count in counts[1:])


@given(st.integers(1, 3))
def test_masks_are_in_the_callers_pixels(scale: int) -> None:
    canvas = np.zeros((32, 32), np.uint8)
    canvas[8:12, 4:8] = 2
    placement = Placement((16 * scale, 32 * scale), (32, 32), (8, 0, 24, 32))
    (mask,) = kind_masks(Answer(placement, mask=canvas), ("a", "b"))
    assert (mask.kind, mask.area_px) == ("b", 16 * scale**2)
    assert mask.size == (16 * scale, 32 * scale)
    assert sum(mask.counts) == mask.size[0] * mask.size[1]


def test_an_answer_without_a_mask_has_none() -> None:
    assert kind_masks(Answer(Placement.filling(32)), ("a",)) == []
