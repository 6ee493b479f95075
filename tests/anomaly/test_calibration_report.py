import re
from dataclasses import replace

import pytest

from anomaly.calibrate import calibrate
from anomaly.calibration import CalibrationSettings
from anomaly.calibration_report import compare, state, uncertified_rate
from anomaly.normal_set import NormalSet
from anomaly.scoring import Evidence
from anomaly.tradeoff import at_threshold
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
        assert "estimate from the 40" in said
        assert said in state(calibration).messages
    largest = replace(calibration, estimates=False)
    before = uncertified_rate(largest, rate)
    assert (before is None) is (said is None)
    if before is not None:
        assert "largest score seen; expect false alarms at about 2.44%" in before
        assert before in state(largest).messages


def test_an_estimate_says_between_what() -> None:
    calibration = calibrate(normals(40), CalibrationSettings(0.01))
    said = state(calibration)
    estimate = calibration.estimate
    assert estimate is not None
    assert said.mode == "estimated"
    assert (said.estimate_low, said.estimate_high) == (estimate.low, estimate.high)
    assert said.expected_alarms.mean == pytest.approx(10)
    [range_said] = [line for line in said.messages if "good parts" in line and "between" in line]
    between = re.search(r"between ([\d,]+) and ([\d,]+) of ([\d,]+) good parts", range_said)
    assert between is not None
    fewest, most, parts = (int(number.replace(",", "")) for number in between.groups())
    assert fewest / parts <= estimate.low < estimate.high <= most / parts
    assert said.held_out_rate is not None  # by the others' fit, not by the largest score
    assert 0 <= said.held_out_rate <= 0.1


def test_a_certified_rate_is_promised_and_a_given_threshold_is_not() -> None:
    calibration = calibrate(normals(150), CalibrationSettings(0.05))
    certified = state(calibration)
    assert certified.mode == "certified"
    assert (certified.estimate_low, certified.estimate_high) == (None, None)
    assert any("5.00% is certified" in line for line in certified.messages)
    by_hand = state(at_threshold(calibration, float(calibration.images.scores[-3])))
    assert (by_hand.mode, by_hand.is_certified) == ("given", False)
    assert not any("is certified" in line for line in by_hand.messages)
    [sentence] = [line for line in by_hand.messages if "by hand" in line]
    most = calibration.images.expected_above(by_hand.threshold)
    assert "2 lie above it" in sentence
    assert f"at most {most.high} of 1,000 good parts" in sentence


def test_models_that_scored_the_folds_are_said() -> None:
    calibration = calibrate(replace(normals(40), fold_models=5), CalibrationSettings(0.05))
    said = state(calibration)
    assert said.fold_models == 5
    assert any("5 further models" in line for line in said.messages)
    assert not any("further models" in line for line in state(calibrate(normals(40))).messages)


def test_an_odd_part_is_named() -> None:
    evidence = draw(40, 1)
    evidence.values[7] += 50
    wild = NormalSet(evidence, tuple(f"part{i}" for i in range(40)), GRID)
    calibration = calibrate(wild, CalibrationSettings(0.05))
    said = state(calibration)
    assert said.odd[0] == "part7"
    assert any("Look at part7" in line for line in said.messages)
    assert state(calibrate(normals(40))).odd == ()
