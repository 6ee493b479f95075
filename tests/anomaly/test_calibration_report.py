from dataclasses import replace

import pytest

from anomaly.calibrate import NormalSet, calibrate
from anomaly.calibration import CalibrationSettings
from anomaly.calibration_report import compare, state, uncertified_rate
from anomaly.scoring import Evidence
from tests.anomaly.test_calibration import GRID, NAMES, draw, normals


def test_like_normals_are_not_warned_of() -> None:
    before = calibrate(normals(150), CalibrationSettings(0.05))
    false_warnings = sum(compare(before, normals(60, seed)).are_unlike for seed in range(30, 60))
    assert false_warnings <= 1
    compared = compare(before, normals(60, 31))
    assert 0 <= compared.rejected_before <= 0.2
    assert not any("WARNING" in line for line in state(before, compared).messages)


def test_unlike_normals_are_said_to_be_so_with_what_they_would_have_cost() -> None:
    before = calibrate(normals(150), CalibrationSettings(0.05))
    other = Evidence(1.5 * draw(60, 80).values, NAMES)
    compared = compare(before, NormalSet(other, tuple(str(i) for i in range(60)), GRID))
    assert compared.are_unlike
    assert compared.median > compared.median_before
    assert compared.rejected_before > 0.5
    said = state(before, compared).messages
    assert any("WARNING: these images are unlike" in line for line in said)


def test_a_few_images_of_one_lot_are_not_much_to_judge_by() -> None:
    before = calibrate(normals(150), CalibrationSettings(0.05))
    other = Evidence(1.2 * draw(60, 80).values, NAMES)
    one_lot = NormalSet(other, ("mon",) * 30 + ("tue",) * 30, GRID)
    assert not compare(before, one_lot).are_unlike


def test_rates_stand_side_by_side() -> None:
    calibration = calibrate(normals(40), CalibrationSettings(0.1, 0.3))
    said = state(calibration)
    assert calibration.rates is not None
    assert (said.in_sample_rate, said.held_out_rate) == (
        calibration.rates.in_sample,
        calibration.rates.held_out,
    )
    assert said.warn_threshold == calibration.warn_threshold
    assert any("judged without itself" in line for line in said.messages)
    assert state(replace(calibration, rates=None)).in_sample_rate is None


@pytest.mark.parametrize("rate", [0.2, 1 / 41, 1 / 42, 0.01, 1e-4, 9e-5, 1e-9, 5e-324])
def test_a_rate_that_nothing_certifies_is_said_to_be_so(rate: float) -> None:
    # 40 groups certify 1 / 41
    calibration = calibrate(normals(40), CalibrationSettings(0.1)).at_rate(rate)
    said = uncertified_rate(calibration, rate)
    assert (said is None) is calibration.is_certified is (rate >= 1 / 41)
    if said is not None:
        assert "NOT certified" in said
        assert " 0.00%" not in said
        assert "about 2.44%" in said
        assert said in state(calibration).messages
