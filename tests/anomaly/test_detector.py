from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.calibration import CalibrationSettings
from anomaly.detector import Detector, detection_of, judge
from anomaly.preprocess import preprocess
from anomaly.roi import Roi
from anomaly.runtime import detector_of
from anomaly.scoring import Evidence
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted, samples
from training.calibrate import calibrate_model
from training.progress import QUIET


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Detector:
    return detector_of(tiny_bundle)


@pytest.mark.parametrize("size", [(96, 128), (300, 90), (64, 64), (40, 400), (900, 1200)])
def test_a_planted_defect_is_found_where_it_is(detector: Detector, size: tuple[int, int]) -> None:
    y, x, half = int(size[0] * 0.35), int(size[1] * 0.6), max(7, min(size) // 8)
    image = RgbImage(planted(normal_pixels(3000, size), x, y, half))
    [found] = detector.detect([image])
    assert found.is_anomalous
    assert found.p_value == pytest.approx(1 / 41)
    assert found.placement.source == size
    peak_x, peak_y = found.regions[0].peak
    patch_y, patch_x = size[0] / 8, size[1] / 8  # the canvas has 8 × 8 patches
    assert abs(peak_y - y) <= half + patch_y
    assert abs(peak_x - x) <= half + patch_x


def test_normal_parts_mostly_pass(detector: Detector) -> None:
    found = detector.detect([RgbImage(normal_pixels(4000 + i)) for i in range(60)])
    assert np.mean([one.is_anomalous for one in found]) <= 0.15
    assert all(one.regions == () for one in found if not one.is_anomalous)
    assert all(0 < one.p_value <= 1 for one in found)


def test_a_batch_of_n_equals_n_singles(detector: Detector) -> None:
    images = [RgbImage(normal_pixels(i, (50 + 9 * i, 80))) for i in range(6)]
    images[3] = RgbImage(planted(images[3].pixels, 30, 30, 8))
    together = detector.detect(images)
    for image, mate in zip(images, together, strict=True):
        [alone] = detector.detect([image])
        assert alone.pred_score == pytest.approx(mate.pred_score, abs=1e-5)
        np.testing.assert_allclose(alone.anomaly_map, mate.anomaly_map, atol=1e-5)


def test_threads_that_share_a_detector_do_not_disturb_each_other(detector: Detector) -> None:
    images = [RgbImage(normal_pixels(i)) for i in range(12)]
    alone = [detector.detect([image])[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(lambda image: detector.detect([image])[0], images * 3))
    for one, other in zip(alone * 3, beside, strict=True):
        assert one.pred_score == other.pred_score
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)


def test_the_same_image_gets_the_same_score_to_the_last_digit(
    detector: Detector, image: RgbImage
) -> None:
    [first], [second] = detector.detect([image]), detector.detect([image])
    assert first.pred_score == second.pred_score
    assert first.score_std == second.score_std
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)


def test_the_spread_over_repeats_is_reported(detector: Detector, image: RgbImage) -> None:
    [found] = detector.detect([image])
    assert 0 < found.score_std < 3


def test_other_thresholds_judge_the_same_evidence_anew(detector: Detector) -> None:
    image = RgbImage(planted(normal_pixels(1), 60, 40, 10))
    [found] = detector.detect([image])
    lenient = judge(found, found.pred_score + 1, found.map_threshold)
    assert not lenient.is_anomalous
    assert lenient.regions == ()
    strict = judge(lenient, found.threshold, found.map_threshold)
    assert strict == found or strict.regions == found.regions


def test_an_ng_part_always_shows_a_region(detector: Detector, image: RgbImage) -> None:
    [found] = detector.detect([image])
    strict = judge(found, found.pred_score - 0.1, 1e9)
    assert strict.is_anomalous
    assert len(strict.regions) >= 1


def test_nothing_in_is_nothing_out(detector: Detector) -> None:
    assert detector.detect([]) == []


def test_sixteen_bit_images_score_like_their_eight_bit_twins(
    detector: Detector, image: RgbImage
) -> None:
    deep = RgbImage(image.pixels.astype(np.uint16) * 257)
    shallow, deep_pixels = (
        preprocess([one], detector.model.config.preprocess) for one in (image, deep)
    )
    torch.testing.assert_close(deep_pixels[0], shallow[0], atol=2e-3, rtol=0)
    [found] = detector.detect([deep])
    assert found.placement.source == image.size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_scores(tiny_bundle: Bundle, image: RgbImage) -> None:
    [cpu] = detector_of(tiny_bundle, "cpu").detect([image])
    [gpu] = detector_of(tiny_bundle, "cuda").detect([image])
    tiny_bundle.model.to("cpu")
    assert gpu.pred_score == pytest.approx(cpu.pred_score, rel=1e-3)


def test_a_defect_outside_the_region_is_not_seen(tiny_bundle: Bundle, tiny_data: Path) -> None:
    left = Roi.of_polygons([[(0, 0), (0.5, 0), (0.5, 1), (0, 1)]])
    normal = samples(tiny_data / "validation/good")
    calibration = calibrate_model(
        tiny_bundle.model, normal, CalibrationSettings(0.05, roi=left), progress=QUIET
    )
    detector = Detector(tiny_bundle.model, calibration)
    part = normal_pixels(77)
    [plain, hidden, shown] = detector.detect(
        [RgbImage(p) for p in (part, planted(part, 110, 40, 8), planted(part, 30, 40, 8))]
    )
    assert shown.is_anomalous
    assert shown.regions[0].peak[0] < 64
    assert not hidden.is_anomalous
    assert (
        hidden.pred_score < plain.pred_score + 2
    )  # predicted from the rest, which the defect is in
    assert not hidden.anomaly_map[:, 40:].any()


@pytest.mark.parametrize(("placements", "cameras"), [(1, None), (3, None), (2, ["a"])])
def test_each_canvas_has_its_placement_and_its_camera(
    detector: Detector, image: RgbImage, placements: int, cameras: list[str | None] | None
) -> None:
    pixels, lies = preprocess([image] * 2, detector.model.config.preprocess)
    with pytest.raises(ValueError, match="zip"):
        detector.detect_canvases(pixels, (lies * 2)[:placements], cameras)


def test_each_camera_is_judged_by_its_own_calibration(tiny_bundle: Bundle, image: RgbImage) -> None:
    assert tiny_bundle.calibration is not None
    strict = tiny_bundle.calibration.at_rate(0.5)
    detector = detector_of(replace(tiny_bundle, cameras={"side": strict}))
    usual, side, other = detector.detect([image] * 3, [None, "side", "top"])
    assert (usual.threshold, other.threshold) == (tiny_bundle.calibration.threshold,) * 2
    assert side.threshold == strict.threshold < usual.threshold
    assert side.pred_score == usual.pred_score


def test_doubtful_parts_are_warned_of(tiny_bundle: Bundle, image: RgbImage) -> None:
    assert tiny_bundle.calibration is not None
    detector = Detector(tiny_bundle.model, replace(tiny_bundle.calibration, warn_rate=0.9))
    [found] = detector.detect([image])
    assert found.warn_threshold is not None
    assert found.warn_threshold < found.pred_score < found.threshold
    assert found.verdict == "WARN"
    assert not found.is_anomalous
    assert judge(found, found.pred_score - 1, 1e9).verdict == "NG"
    assert replace(found, warn_threshold=None).verdict == "OK"


def test_another_calibration_can_judge_stored_evidence(detector: Detector, image: RgbImage) -> None:
    [found] = detector.detect([image])
    assert found.errors is not None
    evidence = Evidence(torch.from_numpy(found.errors).float()[None, None], detector.model.names)
    grid = detector.model.target.map_grid
    again = detection_of(evidence, detector.calibration, found.placement, grid)
    assert again.pred_score == pytest.approx(found.pred_score, abs=0.02)  # half precision
    assert again.is_anomalous == found.is_anomalous
