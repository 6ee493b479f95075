from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.types import Detection, Placement, Region
from bench import strips
from bench.strips import box_ratio, figures, strip, table, write_strips
from tests.conftest import TINY


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    splits = {"train": (8, 0), "validation": (8, 500), "test": (2, 1000)}
    monkeypatch.setattr(strips, "_SPLITS", splits)
    monkeypatch.setattr(strips, "_BAD", 1)
    return write_strips(tmp_path / "web", is_textured=True)


def test_strips_are_tested_on_both_defects(few: Path, tmp_path: Path) -> None:
    small = ["model.preprocess.canvas=128", "model.preprocess.bands=4", "optimiser.steps=10"]
    row = figures(few, tmp_path, [*TINY, *small])
    assert 0 <= row["false_alarms"] <= 1
    assert {row["hole_recall"], row["crack_recall"]} <= {0.0, 1.0}
    assert row["ms"] > 0
    assert "| smooth | 128 |" in table([{"web": "smooth", "canvas": 128, **row}])


def test_masks_mark_what_was_drawn(few: Path) -> None:
    for kind, (height, width) in strips.DEFECTS.items():
        mask = cv2.imread(str(few / "ground_truth" / kind / "000.png"), cv2.IMREAD_GRAYSCALE)
        picture = cv2.imread(str(few / "test" / kind / "000.jpg"), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        assert picture is not None
        assert (mask > 0).sum() == height * width
        assert picture[mask > 0].mean() < picture[mask == 0].mean() - 50


def test_a_textured_web_has_the_same_light_and_clouds_upon_it() -> None:
    smooth, textured = (strip(0, is_textured=kind, length=512) for kind in (False, True))
    clouds = cv2.GaussianBlur(textured - smooth, (0, 0), 3)
    assert clouds.std() > 5
    assert abs(clouds.mean()) < 3


def test_boxes_are_held_against_the_defect() -> None:
    grid = np.zeros((2, 2), np.float32)
    placement = Placement.filling(2)
    none = Detection(0.0, 0.0, 1.0, grid, grid, placement)
    region = Region((0, 0, 20, 10), 90, (1, 1), (1.0, 1.0), 3.0)
    boxed = Detection(0.0, 0.0, 1.0, grid, grid, placement, regions=(region,))
    assert box_ratio([none, boxed], 100) == 2
    assert box_ratio([none], 100) is None
