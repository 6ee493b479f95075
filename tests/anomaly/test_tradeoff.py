from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.conformal import Conformal
from anomaly.errors import CalibrationError
from anomaly.normal_set import NormalSet
from anomaly.tradeoff import RATES, at_threshold, trade_off, trade_offs
from tests.anomaly.test_calibration import GRID, draw, normals


def with_defects(groups: int, rate: float = 0.05) -> Calibration:
    base = normals(groups)
    copies = draw(groups, 5, defect=0.8)
    origin = tuple(range(groups))
    seen = NormalSet(base.evidence, base.groups, GRID, copies, origin)
    return calibrate(seen, CalibrationSettings(rate))


SMALL, LARGE = with_defects(40), with_defects(150)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 20), st.floats(0.01, 20), st.sampled_from([SMALL, LARGE]))
def test_a_higher_threshold_never_costs_nor_catches_more(
    one: float, other: float, calibration: Calibration
) -> None:
    low, high = (
        trade_off(at_threshold(calibration, threshold)) for threshold in sorted((one, other))
    )
    assert low.synthetic_recall is not None
    assert high.synthetic_recall is not None
    assert high.synthetic_recall <= low.synthetic_recall
    assert high.false_alarms.mean <= low.false_alarms.mean
    for point in (low, high):
        alarms = point.false_alarms
        assert 0 <= alarms.low <= np.ceil(alarms.mean)
        assert alarms.mean <= alarms.high <= alarms.parts
        assert (point.mode, point.rate) == ("given", None)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.1, 0.4])
def test_a_certified_threshold_is_counted_as_before(rate: float) -> None:
    point = trade_off(LARGE.at_rate(rate))
    assert (point.mode, point.basis, point.rate) == ("certified", "counted", rate)
    assert point.false_alarms == LARGE.images.expected(rate)
    assert point.false_alarms.mean <= 1000 * rate + 1e-6


def test_the_count_holds_for_parts_that_come_later() -> None:
    """Over many draws of calibration parts the interval holds what later parts do, 95 % of it."""
    generator = np.random.default_rng(3)
    held = []
    for _ in range(200):
        images = Conformal.fit(generator.gumbel(size=60), tuple(map(str, range(60))))
        alarms = images.expected_above(2.0)
        later = int((generator.gumbel(size=1000) > 2.0).sum())
        held.append(alarms.low <= later <= alarms.high)
    assert np.mean(held) > 0.9


def test_an_estimated_threshold_is_judged_by_the_tail_and_says_so() -> None:
    point = trade_off(SMALL.at_rate(0.005))
    assert (point.mode, point.basis) == ("estimated", "estimated")
    assert point.false_alarms.mean == pytest.approx(5)
    assert point.false_alarms.mean < trade_off(SMALL.at_rate(0.05)).false_alarms.mean
    by_hand = trade_off(at_threshold(SMALL, point.threshold))
    assert by_hand.basis == "estimated"
    assert by_hand.false_alarms.mean == pytest.approx(point.false_alarms.mean, rel=0.01)


def test_a_model_of_an_earlier_version_is_only_counted() -> None:
    old = replace(SMALL, estimates=False).at_rate(0.001)
    point = trade_off(old)
    assert (point.mode, point.basis) == ("largest", "counted")
    assert point.false_alarms.mean == pytest.approx(1000 / 41)
    assert trade_off(at_threshold(old, 100.0)).basis == "counted"


def test_the_table_has_the_usual_rates_and_the_threshold_that_serves() -> None:
    assert {point.rate for point in trade_offs(LARGE)} == set(RATES)
    odd_rate = trade_offs(LARGE.at_rate(0.03))
    assert {point.rate for point in odd_rate} == {*RATES, 0.03}
    by_hand = trade_offs(at_threshold(LARGE, 2.5))
    assert [point.threshold for point in by_hand if point.mode == "given"] == [2.5]
    means = [point.false_alarms.mean for point in by_hand]
    assert means == sorted(means, reverse=True)


def test_defects_that_were_scored_are_counted_and_nothing_is_made_up() -> None:
    threshold = LARGE.threshold
    scores = [threshold - 0.1, threshold + 0.1, threshold + 1, threshold + 2]
    assert trade_off(LARGE, scores).defects_recall == 0.75
    assert trade_off(LARGE).defects_recall is None
    assert trade_off(LARGE, []).defects_recall is None
    assert trade_off(calibrate(normals(40))).synthetic_recall is None


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("inf"), float("nan")])
def test_a_threshold_is_a_positive_number(threshold: float) -> None:
    with pytest.raises(CalibrationError, match="makes no sense"):
        at_threshold(LARGE, threshold)
