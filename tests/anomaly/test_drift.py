from datetime import UTC, datetime

import numpy as np
import pytest

from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration, CalibrationSettings, ReferenceStatistics
from anomaly.drift import ChangeTest, Stability, Watch
from anomaly.input_statistics import STATISTICS
from anomaly.normal_set import NormalSet
from tests.anomaly.test_calibration import GRID, draw

AT = datetime(2026, 3, 1, tzinfo=UTC)


def alarm_at(reference: np.ndarray, values: np.ndarray, alarm: float) -> int | None:
    test = ChangeTest(reference.astype(np.float32), np.ones(len(reference), np.float32))
    for number, value in enumerate(values):
        test.add(float(value))
        if test.value >= alarm:
            return number
    return None


def test_alarms_without_a_change_come_no_sooner_than_stated() -> None:
    generator = np.random.default_rng(0)
    waited = []
    for _ in range(60):
        found = alarm_at(generator.normal(size=80), generator.normal(size=2500), 500)
        waited.append(2500 if found is None else found)
    assert np.mean(waited) >= 500


@pytest.mark.parametrize(("shift", "within"), [(1.0, 60), (-1.0, 60), (3.0, 25)])
def test_a_shift_is_found_soon_also_after_a_long_time(shift: float, within: int) -> None:
    generator = np.random.default_rng(1)
    values = np.concatenate([generator.normal(size=3000), generator.normal(shift, 1, 200)])
    found = alarm_at(generator.normal(size=100), values, 1e5)
    assert found is not None
    assert 3000 <= found <= 3000 + within


def test_a_fifth_of_extreme_values_is_found() -> None:
    generator = np.random.default_rng(2)
    values = generator.normal(size=400)
    values[100::5] += 6
    found = alarm_at(generator.normal(size=150), values, 7e5)
    assert found is not None
    assert 100 < found < 300


def test_lots_that_differ_by_themselves_are_not_a_change() -> None:
    """Calibrated on 25 lots of six like images; then single parts of many lots come."""
    generator = np.random.default_rng(7)
    found = 0
    for seed in range(30):
        lots = np.repeat(generator.normal(size=25), 6) + generator.normal(0, 0.1, 150)
        test = ChangeTest(lots.astype(np.float32), np.full(150, 1 / 6, np.float32), seed)
        for value in generator.normal(size=1000):
            test.add(float(value))
            if test.value >= 1e5:
                found += 1
                break
    assert found <= 2


def test_ties_are_no_news() -> None:
    assert alarm_at(np.zeros(50), np.zeros(1000), 1e4) is None


def test_the_index_is_near_zero_for_more_of_the_same_and_large_for_a_shift() -> None:
    generator = np.random.default_rng(3)
    reference = generator.normal(size=150).astype(np.float32)
    same, moved = (Stability(reference, np.ones(150, np.float32)) for _ in range(2))
    for value in generator.normal(size=49):
        same.add(value)
    assert same.psi is None
    for value in generator.normal(size=200):
        same.add(value)
        moved.add(value + 1)
    assert same.psi is not None
    assert moved.psi is not None
    assert same.psi < 0.1
    assert moved.psi > 0.5


def watched() -> tuple[Calibration, np.ndarray]:
    generator = np.random.default_rng(4)
    inputs = generator.normal(0.5, 0.02, (120, 5)).astype(np.float32)
    normals = NormalSet(draw(120, 0), tuple(map(str, range(120))), GRID, inputs=inputs)
    return calibrate(normals, CalibrationSettings(0.05)), inputs


def run(watch: Watch, calibration: Calibration, count: int, **moved: float) -> None:
    generator = np.random.default_rng(5)
    scores = generator.choice(calibration.images.scores, count) + moved.get("score", 0.0)
    for score in scores:
        inputs = generator.normal(0.5, 0.02, 5)
        inputs[0] += moved.get("brightness", 0.0)
        embedding = generator.normal(0, 0.1) + moved.get("embedding", 0.0)
        watch.add(float(score), inputs.astype(np.float32), embedding, AT)


def test_nothing_changed_is_nothing_found() -> None:
    calibration, _ = watched()
    assert calibration.reference is not None
    assert calibration.reference.names == (*STATISTICS, "embedding")
    watch = Watch(calibration)
    assert watch.drift.finding == "none"
    assert watch.ratio("brightness") is None
    usual = calibration.reference
    generator = np.random.default_rng(6)
    for row in generator.integers(0, 120, 400):
        score = float(generator.choice(calibration.images.scores))
        watch.add(score, usual.values[row, :5], float(usual.values[row, 5]), AT)
    assert watch.drift.finding == "none"
    assert watch.drift.parts == 400
    assert watch.ratio("brightness") == pytest.approx(1, abs=0.02)
    assert watch.psi("score") is not None


def test_a_camera_that_changes_is_told_from_parts_that_change() -> None:
    calibration, _ = watched()
    camera = Watch(calibration)
    run(camera, calibration, 100, brightness=-0.05, score=2.0)
    assert camera.drift.finding == "camera"
    assert "brightness" in camera.drift.advice
    assert "Do not raise the threshold" in camera.drift.advice
    parts = Watch(calibration)
    run(parts, calibration, 100, score=2.0)
    drift = parts.drift
    assert drift.finding == "parts"
    assert "Do not raise the threshold" in drift.advice
    changed = {one.name: one.since for one in drift.statistics}
    assert changed["score"] == AT
    assert changed["brightness"] is None


def test_a_calibration_without_statistics_is_watched_by_its_scores() -> None:
    calibration, _ = watched()
    bare = Watch(calibrate(NormalSet(draw(60, 0), tuple(map(str, range(60))), GRID)))
    run(bare, calibration, 80, score=5.0)
    assert bare.names == ("score",)
    assert bare.drift.finding == "parts"
    assert isinstance(calibration.reference, ReferenceStatistics)


def test_some_images_that_differ_are_parts_and_not_the_camera() -> None:
    calibration, _ = watched()
    watch = Watch(calibration)
    run(watch, calibration, 150)
    generator = np.random.default_rng(9)
    for number in range(200):
        inputs = generator.normal(0.5, 0.02, 5).astype(np.float32)
        inputs[1] += 0.2 * (number % 5 == 0)
        watch.add(float(generator.choice(calibration.images.scores)), inputs, 0.0, AT)
    changed = {one.name for one in watch.drift.statistics if one.since is not None}
    assert "contrast" in changed
    assert watch.drift.finding == "parts"
