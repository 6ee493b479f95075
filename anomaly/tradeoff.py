"""What a threshold costs and what it catches: false alarms beside recall on synthetic defects.

False alarms are counted, or estimated. Counted: of G exchangeable groups `a` lie above a threshold,
so that the share of good parts above it is Beta(a + 1, G - a) (Vovk 2012, "Conditional validity of
inductive conformal predictors"), and a count of them beta-binomial. This holds for scores of any
distribution and knows nothing below 1 / (G + 1). There the fitted tail (`anomaly.tail`) estimates.
Recall on synthetic defects compares thresholds; it does not predict the recall on real ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import binom

from anomaly.calibration import Calibration, Mode
from anomaly.conformal import Conformal, Expected
from anomaly.errors import CalibrationError
from anomaly.tail import Tail
from anomaly.types import FloatArray

RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_PARTS = 1000
_INTERVAL = (0.025, 0.975)
# Where the tail is looked at to place any threshold: an estimate is a simulation, made once each.
_TAIL_RATES = (0.3, 0.2, *RATES, 5e-4, 2e-4, 1e-4)


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One threshold: false alarms among 1,000 good parts, and recall, each a share in [0, 1].

    `rate` is the stated rate, None where the threshold was set by hand. `synthetic_recall` is None
    where no synthetic defects were scored, `defects_recall` where no confirmed ones were.
    """

    threshold: float
    rate: float | None
    mode: Mode
    false_alarms: Expected
    basis: Literal["counted", "estimated"]
    synthetic_recall: float | None
    defects_recall: float | None = None


def trade_off(calibration: Calibration, defects: Sequence[float] | None = None) -> TradeOff:
    """Say what a calibration's own threshold costs and catches.

    `defects` are image scores of confirmed defects by this calibration.
    """
    threshold, mode = calibration.threshold, calibration.mode
    estimated = _estimated_alarms(calibration)
    return TradeOff(
        threshold=threshold,
        rate=None if mode == "given" else calibration.false_alarm_rate,
        mode=mode,
        false_alarms=_counted_alarms(calibration) if estimated is None else estimated,
        basis="counted" if estimated is None else "estimated",
        synthetic_recall=_recall(calibration.synthetic, threshold),
        defects_recall=_recall(defects, threshold),
    )


def trade_offs(
    calibration: Calibration, defects: Sequence[float] | None = None
) -> tuple[TradeOff, ...]:
    """Return the trade-off at several stated rates and at the calibration's own threshold.

    The rows fall by their expected false alarms; an estimated threshold may lie below a certified
    one for a larger rate, where a calibration part is odd.
    """
    candidates = [calibration.at_rate(rate) for rate in RATES]
    if calibration.mode == "given" or calibration.false_alarm_rate not in RATES:
        candidates.append(calibration)
    rows = [trade_off(candidate, defects) for candidate in candidates]
    return tuple(sorted(rows, key=lambda row: -row.false_alarms.mean))


def at_threshold(calibration: Calibration, threshold: float) -> Calibration:
    """Return the same calibration with a threshold set by hand. Raises `CalibrationError`."""
    if not 0 < threshold < math.inf:
        raise CalibrationError(f"a threshold of {threshold} makes no sense; want a positive number")
    return replace(calibration, given=threshold)


def groups_above(images: Conformal, threshold: float) -> float:
    """How many groups of good parts lie above a threshold; a part of a group counts as a part."""
    return float(images.weights[images.scores > np.float32(threshold)].sum(dtype=np.float64))


def _counted_alarms(calibration: Calibration) -> Expected:
    """False alarms by count of the groups above the threshold."""
    if calibration.mode == "certified":
        return calibration.images.expected(calibration.false_alarm_rate, _PARTS)
    return calibration.images.expected_above(calibration.threshold, _PARTS)


def _estimated_alarms(calibration: Calibration) -> Expected | None:
    """False alarms by the fitted tail; None where counting groups says as much.

    The interval joins that of the fit with that of the chance in the parts: it covers 95 % or more.
    """
    images = calibration.images
    if calibration.mode == "estimated":
        estimate = calibration.estimate
        assert estimate is not None
        rate, low, high = estimate.rate, estimate.low, estimate.high
    elif calibration.mode == "given" and calibration.estimates:
        rate, low, high = _tail_at(images, calibration.threshold)
        if rate >= images.smallest_rate:
            return None
    else:
        return None
    fewest = int(binom(_PARTS, low).ppf(_INTERVAL[0]))
    return Expected(
        _PARTS, _PARTS * rate, max(fewest, 0), int(binom(_PARTS, high).ppf(_INTERVAL[1]))
    )


def _tail_at(images: Conformal, threshold: float) -> tuple[float, float, float]:
    """Share of good parts above a threshold by the fitted tail: mean, low, high.

    Beyond the last rate that is looked at, that rate stands: "no more than".
    """
    tail = Tail.fit(images)
    estimates = [tail.estimate(rate) for rate in _TAIL_RATES]
    thresholds = [estimate.threshold for estimate in estimates]
    shares = [[max(x, 1e-12) for x in (e.rate, e.low, e.high)] for e in estimates]
    rate, low, high = (
        float(np.exp(np.interp(threshold, thresholds, np.log(column))))
        for column in np.transpose(shares)
    )
    return rate, (0.0 if threshold > thresholds[-1] else low), high


def _recall(scores: FloatArray | Sequence[float] | None, threshold: float) -> float | None:
    """Share of scores above a threshold; None without scores."""
    if scores is None or len(scores) == 0:
        return None
    return float((np.asarray(scores, np.float32) > np.float32(threshold)).mean())
