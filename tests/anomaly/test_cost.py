from dataclasses import replace

import numpy as np
import pytest

from anomaly.cost import Stakes, cheapest, costs
from anomaly.errors import CalibrationError
from anomaly.tradeoff import at_threshold
from tests.anomaly.test_tradeoff import LARGE, SMALL, with_defects

STAKES = Stakes(escape=100.0, false_alarm=1.0, defect_rate=0.01)


def test_the_cost_is_that_of_escapes_and_of_false_alarms() -> None:
    for one in costs(LARGE, STAKES):
        assert one.recall == pytest.approx(one.trade_off.synthetic_recall)
        assert one.escapes == pytest.approx(10 * (1 - one.recall))
        assert one.false_alarms == pytest.approx(0.99 * one.trade_off.false_alarms.mean)
        assert one.cost == pytest.approx(100 * one.escapes + one.false_alarms)


def test_dear_escapes_loosen_the_rate_and_dear_false_alarms_tighten_it() -> None:
    rates = []
    for escape in (1.0, 30.0, 100_000.0):
        found = costs(LARGE, Stakes(escape, 1.0, 0.01))
        best = cheapest(found)
        assert best.cost == min(one.cost for one in found)
        rates.append(best.trade_off.rate)
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_few_confirmed_defects_move_the_recall_a_little_and_many_decide_it() -> None:
    drawn = {one.trade_off.rate: one.recall for one in costs(LARGE, STAKES)}
    weak = LARGE.threshold - 0.01  # a kind of defect that the threshold just misses
    for confirmed, share in ((1, 1 / 6), (20, 20 / 25)):
        for one in costs(LARGE, STAKES, [weak] * confirmed):
            caught = float(weak > one.trade_off.threshold)
            expected = share * caught + (1 - share) * drawn[one.trade_off.rate]
            assert one.recall == pytest.approx(expected)


def test_confirmed_defects_just_below_the_threshold_lower_it() -> None:
    weak = LARGE.at_rate(0.07).threshold + 1e-3
    stakes = Stakes(20.0, 1.0, 0.05)
    before = cheapest(costs(LARGE, stakes)).trade_off.rate
    after = cheapest(costs(LARGE, stakes, [weak] * 20)).trade_off.rate
    assert before is not None
    assert after == 0.07 > before


def test_a_threshold_by_hand_is_shown_and_never_the_cheapest() -> None:
    found = costs(at_threshold(LARGE, 1e-3), STAKES, [5.0])
    by_hand = [one for one in found if one.trade_off.rate is None]
    assert len(by_hand) == 1
    assert cheapest(found).trade_off.rate is not None


def test_rates_that_few_parts_cannot_certify_are_estimated() -> None:
    modes = {one.trade_off.rate: one.trade_off.mode for one in costs(SMALL, STAKES)}
    assert modes[0.05] == "certified"
    assert modes[0.001] == "estimated"


def test_without_any_defect_nothing_is_said() -> None:
    blind = replace(with_defects(40), synthetic=None)
    with pytest.raises(CalibrationError, match="nothing says what a threshold catches"):
        costs(blind, STAKES)
    assert all(np.isfinite(one.cost) for one in costs(blind, STAKES, [3.0]))


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 0.1), (1.0, -1.0, 0.1), (1.0, 1.0, 1.0)])
def test_stakes_that_make_no_sense_are_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(CalibrationError):
        Stakes(*wrong)
