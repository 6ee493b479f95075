"""Regions as vectors: of their own cells, wherever they lie, by whichever engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.description import describe
from anomaly.detector import Detector, judge
from anomaly.onnx_model import OnnxModel, export_onnx
from anomaly.patches import fold_cells
from anomaly.runtime import detector_of
from anomaly.targets import Target
from anomaly.types import Block, Detection, Grid, Placement, Region, RgbImage
from tests.conftest import normal_pixels, planted

_BLOCKS = (Block("fine", 3, cells=2), Block("coarse", 2))
_TARGET = Target(Grid(4, 4, 16), _BLOCKS)


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Detector:
    return detector_of(tiny_bundle)


def marked(row: int, column: int, box: tuple[int, int, int, int], side: int = 64) -> Detection:
    """A detection whose differences are other in one fine cell (8 px) and its patch."""
    fine = torch.zeros(1, 3, 8, 8)
    fine[0, :, row, column] = torch.tensor([1.0, 2.0, 3.0])
    coarse = torch.zeros(1, 2, 4, 4)
    coarse[0, :, row // 2, column // 2] = torch.tensor([4.0, 5.0])
    tokens = [fold_cells(fine, _TARGET.grid, 2), fold_cells(coarse, _TARGET.grid, 1)]
    scores = np.zeros((8, 8), np.float32)
    scores[row, column] = 2.0
    return Detection(
        pred_score=2.0,
        score_std=0.0,
        p_value=0.1,
        patch_scores=scores,
        anomaly_map=np.kron(scores, np.ones((8, 8), np.float32)),
        placement=Placement((side, side), (64, 64), (0, 0, 64, 64)),
        map_threshold=1.0,
        regions=(Region(box, 64, (0, 0), (0.0, 0.0), 2.0),),
        differences=torch.cat(tokens, dim=2)[0],
    )


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (7, 7)])
def test_a_region_is_described_by_what_lies_in_it(row: int, column: int) -> None:
    [vector] = describe_all(marked(row, column, (column * 8, row * 8, 8, 8)))
    np.testing.assert_allclose(vector, np.arange(1, 6) / np.sqrt(55), atol=1e-6)


def test_boxes_in_the_callers_pixels_are_brought_to_the_canvas() -> None:
    [vector] = describe_all(marked(2, 1, (4 * 8, 4 * 16, 4 * 8, 4 * 8), side=256))
    np.testing.assert_allclose(vector, np.arange(1, 6) / np.sqrt(55), atol=1e-6)


def test_a_region_without_excess_is_described_by_its_box() -> None:
    detection = marked(3, 3, (24, 24, 8, 8))
    flat = replace(detection, patch_scores=np.zeros((8, 8), np.float32))
    np.testing.assert_allclose(describe_all(flat), describe_all(detection), atol=1e-6)


def test_nothing_is_said_without_differences_and_of_no_region() -> None:
    detection = marked(0, 0, (0, 0, 8, 8))
    assert describe(replace(detection, differences=None), _TARGET) is None
    assert describe_all(replace(detection, regions=())).shape == (0, 5)


def test_a_strip_in_bands_is_described_where_it_was_folded() -> None:
    """Four bands of a tall strip lie side by side: its lowest quarter is the last band."""
    detection = marked(1, 7, (0, 0, 1, 1))
    scores = np.zeros((32, 2), np.float32)
    scores[25, 1] = 2.0  # row 1 of the last of four bands that are two cells wide
    tall = replace(
        detection,
        patch_scores=scores,
        anomaly_map=np.kron(scores, np.ones((8, 8), np.float32)),
        placement=Placement((256, 16), (256, 16), (0, 0, 256, 16)),
        regions=(Region((8, 200, 8, 8), 64, (0, 0), (0.0, 0.0), 2.0),),
    )
    np.testing.assert_allclose(describe_all(tall)[0], np.arange(1, 6) / np.sqrt(55), atol=1e-6)


def test_a_part_is_described_with_its_regions_and_after_another_threshold(
    detector: Detector,
) -> None:
    image = RgbImage(planted(normal_pixels(3000, (128, 128)), 80, 40, 10))
    [bad] = detector.detect([image])
    vectors = detector.describe(bad)
    assert vectors is not None
    assert vectors.shape[0] == len(bad.regions) > 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    lenient = judge(bad, bad.pred_score + 1, bad.map_threshold)
    again = detector.describe(judge(lenient, bad.threshold, bad.map_threshold))
    np.testing.assert_allclose(again, vectors)


def test_engines_describe_alike(tiny_bundle: Bundle, detector: Detector) -> None:
    network = OnnxModel(tiny_bundle.model, export_onnx(tiny_bundle.model))
    assert tiny_bundle.calibration is not None
    exported = Detector(tiny_bundle.model, tiny_bundle.calibration, network=network)
    images = [RgbImage(planted(normal_pixels(i, (96, 96)), 30 + i, 50, 9)) for i in range(3)]
    for here, there in zip(detector.detect(images), exported.detect(images), strict=True):
        np.testing.assert_allclose(
            describe_by(detector, here), describe_by(exported, there), atol=1e-3
        )


def describe_all(detection: Detection) -> np.ndarray:
    vectors = describe(detection, _TARGET)
    assert vectors is not None
    return vectors


def describe_by(detector: Detector, detection: Detection) -> np.ndarray:
    vectors = detector.describe(detection)
    assert vectors is not None
    return vectors
