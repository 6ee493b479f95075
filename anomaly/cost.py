"""The stated rate at which errors cost the least, by confirmed defects and by drawn ones.

An escape costs more than a false alarm, and both depend on the threshold. Few confirmed defects say
little of the recall: it is shrunk towards that on synthetic ones. The rate is one of a short list,
and its promise is the list's, whatever the defects say: only good parts set its threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly.calibration import Calibration
from anomaly.errors import CalibrationError
from anomaly.tradeoff import TradeOff, trade_off

_RATES = (0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001)
_PARTS = 1000
_DRAWN_COUNT_AS = 5  # confirmed defects: so much do the synthetic ones weigh together


@dataclass(frozen=True, slots=True)
class Stakes:
    """What an escape and a false alarm cost, in one currency, and what share of parts is defective.

    Raises `CalibrationError` unless both costs are positive and the share lies between 0 and 1.
    """

    escape: float
    false_alarm: float
    defect_rate: float

    def __post_init__(self) -> None:
        for name, cost in (("an escape", self.escape), ("a false alarm", self.false_alarm)):
            if not 0 < cost < math.inf:
                raise CalibrationError(f"{name} costs {cost}; want a positive number")
        if not 0 < self.defect_rate < 1:
            raise CalibrationError(
                f"a share of {self.defect_rate} defective parts; want more than 0 and less than 1"
            )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one stated rate costs: `cost` of 1,000 parts, of which `escapes` + `false_alarms` err.

    `recall` in [0, 1] is the estimate that `escapes` rests on.
    """

    trade_off: TradeOff
    recall: float
    escapes: float
    false_alarms: float
    cost: float


def costs(
    calibration: Calibration, stakes: Stakes, defects: Sequence[float] = ()
) -> tuple[Cost, ...]:
    """Return what each rate of a short list costs, and what the calibration's own does.

    `defects` are image scores of confirmed defects by this calibration. Rates fall. Raises
    `CalibrationError` where neither confirmed nor synthetic defects were scored.
    """
    if calibration.synthetic is None and not len(defects):
        raise CalibrationError(
            "nothing says what a threshold catches: this calibration scored no synthetic defects "
            "('maskline calibrate' scores some), and no confirmed ones are known"
        )
    tried = [calibration.at_rate(rate) for rate in _RATES]
    if calibration.given is not None or calibration.false_alarm_rate not in _RATES:
        tried.append(calibration)
    priced = [_cost(candidate, stakes, defects) for candidate in tried]
    return tuple(sorted(priced, key=lambda cost: -cost.trade_off.false_alarms.mean))


def cheapest(priced: Sequence[Cost]) -> Cost:
    """Return the one that costs the least; of equals, that with the fewest false alarms.

    A threshold set by hand states no rate and is not among them.
    """
    stated = [cost for cost in priced if cost.trade_off.rate is not None]
    return min(stated, key=lambda cost: (cost.cost, cost.false_alarms))


def _cost(calibration: Calibration, stakes: Stakes, defects: Sequence[float]) -> Cost:
    point = trade_off(calibration, defects)
    recall = _recall(point, len(defects))
    escapes = _PARTS * stakes.defect_rate * (1 - recall)
    false_alarms = (1 - stakes.defect_rate) * point.false_alarms.mean
    cost = stakes.escape * escapes + stakes.false_alarm * false_alarms
    return Cost(point, recall, escapes, false_alarms, cost)


def _recall(point: TradeOff, confirmed: int) -> float:
    """Shrink the recall on confirmed defects towards that on synthetic ones."""
    pairs = [(point.defects_recall, confirmed), (point.synthetic_recall, _DRAWN_COUNT_AS)]
    recalls = [(recall, weight) for recall, weight in pairs if recall is not None]
    return float(np.average([r for r, _ in recalls], weights=[w for _, w in recalls]))
