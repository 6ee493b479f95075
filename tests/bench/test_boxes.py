from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.types import Placement
from bench.boxes import Inspected, box_figures, peaks, read_boxes, true_boxes
from training.data import Sample

HALVED = Placement((200, 400), (100, 100), (0, 0, 100, 100))  # (2, 4) pixels to a canvas pixel
PLAIN = Placement.filling(100)


def sample(root: Path, kind: str, mask: Path | None = None) -> Sample:
    return Sample(root / "test" / kind / "a.png", kind, "test", "a", mask=mask)


def drawn(*areas: tuple[int, int, int, int, float]) -> np.ndarray:
    """A canvas map that has a value in each x1, y1, x2, y2, and one pixel of it a little more."""
    anomaly_map = np.zeros((100, 100), np.float32)
    for x1, y1, x2, y2, value in areas:
        anomaly_map[y1:y2, x1:x2] = value
        anomaly_map[(y1 + y2) // 2, (x1 + x2) // 2] += 0.01
    return anomaly_map


def boxed(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(boxes, float).reshape(-1, 4)


def test_regions_are_held_against_the_boxes_of_defects() -> None:
    images = [
        # A region twice as wide as its defect, one where nothing is, and a missed defect.
        Inspected(
            drawn((20, 20, 40, 30, 2.0), (80, 80, 85, 85, 1.5)),
            PLAIN,
            is_rejected=True,
            boxes=boxed((20, 20, 30, 30), (60, 10, 70, 20)),
        ),
        Inspected(drawn((5, 5, 9, 9, 1.2)), PLAIN, is_rejected=True, boxes=boxed()),
        # What is not rejected reports nothing, and below the level there is nothing to report.
        Inspected(drawn((5, 5, 9, 9, 9.0)), PLAIN, is_rejected=False, boxes=boxed((5, 5, 9, 9))),
        Inspected(drawn((5, 5, 9, 9, 0.8)), PLAIN, is_rejected=True, boxes=boxed((5, 5, 9, 9))),
    ]
    row = box_figures(images, 1.0)
    assert row["region_iou"] == pytest.approx(0.5 / 4)
    assert row["box_precision"] == pytest.approx(1 / 3)
    assert row["box_recall_reported"] == pytest.approx(1 / 4)


def test_a_region_that_fits_a_defect_overlaps_it_wholly_in_the_image_s_own_pixels() -> None:
    image = Inspected(
        drawn((10, 10, 20, 30, 2.0)), HALVED, is_rejected=True, boxes=boxed((40, 20, 80, 60))
    )
    assert box_figures([image], 1.0) == {
        "region_iou": 1.0,
        "box_precision": 1.0,
        "box_recall_reported": 1.0,
        "box_recall": 1.0,
    }


def test_two_regions_in_a_box_reach_it_once_and_are_both_right() -> None:
    anomaly_map = drawn((10, 10, 15, 15, 2.0), (25, 10, 30, 15, 2.0))
    image = Inspected(
        anomaly_map, PLAIN, is_rejected=True, boxes=boxed((10, 10, 30, 15), (80, 80, 90, 90))
    )
    row = box_figures([image], 1.0)
    assert row["box_precision"] == 1.0
    assert row["box_recall_reported"] == 0.5
    assert row["region_iou"] == pytest.approx(0.25 / 2)


def test_precision_is_left_out_where_nothing_is_reported() -> None:
    missed = Inspected(drawn(), PLAIN, is_rejected=True, boxes=boxed((10, 10, 30, 15)))
    row = box_figures([missed], 1.0)
    assert "box_precision" not in row
    assert row["region_iou"] == row["box_recall_reported"] == 0


def test_without_a_defect_s_box_there_are_no_figures() -> None:
    normal = Inspected(drawn(), PLAIN, is_rejected=False, boxes=boxed())
    assert box_figures([normal], 1.0) == {}


def test_a_mask_has_a_box_for_each_connected_defect(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:10, 20:50] = mask[10, 50] = 255  # the pixel touches by a corner
    mask[30:32, 3:4] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    boxes = true_boxes(sample(tmp_path, "dent", tmp_path / "mask.png"), (40, 60))
    assert boxes is not None
    assert boxes.tolist() == [[20, 5, 51, 11], [3, 30, 4, 32]]


def test_boxes_of_a_file_come_before_a_mask_and_no_truth_is_none(tmp_path: Path) -> None:
    assert true_boxes(sample(tmp_path, "dent"), (9, 9)) is None
    normal = true_boxes(sample(tmp_path, "good"), (9, 9))
    assert normal is not None
    assert normal.shape == read_boxes(sample(tmp_path, "good")).shape == (0, 4)
    (tmp_path / "boxes/dent").mkdir(parents=True)
    (tmp_path / "boxes/dent/a.txt").write_text("1 2 3 4 7\n")
    listed = true_boxes(sample(tmp_path, "dent", tmp_path / "mask.png"), (9, 9))
    assert listed is not None
    assert listed.tolist() == [[1, 2, 3, 4]]


def test_peaks_are_in_the_image_s_own_pixels() -> None:
    spot = np.zeros((100, 100), np.float32)
    spot[25, 30] = 0.9
    [(strength, x, y)] = peaks(spot, HALVED)
    assert strength == pytest.approx(0.9)
    assert (x, y) == pytest.approx((122.0, 51.0))
