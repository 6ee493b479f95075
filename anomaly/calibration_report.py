"""What a calibration promises and what it doesn't, in figures and in plain sentences."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import kstwobign

from anomaly.calibrate import NormalSet
from anomaly.calibration import Calibration
from anomaly.conformal import Conformal, Expected

_UNLIKE_P = 0.001


@dataclass(frozen=True, slots=True)
class Comparison:
    """How normal images score by the previous calibration: a small `p` is unlike its own ones.

    `rejected_before` is the share of them that its threshold rejects, each group counting once.
    """

    threshold: float
    rejected_before: float
    median: float
    median_before: float
    p: float

    @property
    def are_unlike(self) -> bool:
        """Whether that is more than chance."""
        return self.p < _UNLIKE_P


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A calibration's promises."""

    threshold: float
    false_alarm_rate: float
    warn_threshold: float | None
    warn_rate: float | None
    images: int
    groups: int
    smallest_certified_rate: float
    is_certified: bool
    in_sample_rate: float | None
    held_out_rate: float | None
    expected_alarms: Expected
    roi_share: float | None
    before: Comparison | None
    messages: tuple[str, ...]


def state(calibration: Calibration, before: Comparison | None = None) -> CalibrationReport:
    """Say what a calibration promises, beside the previous one if there was one."""
    images, rates = calibration.images, calibration.rates
    return CalibrationReport(
        threshold=calibration.threshold,
        false_alarm_rate=calibration.false_alarm_rate,
        warn_threshold=calibration.warn_threshold,
        warn_rate=calibration.warn_rate,
        images=len(images.scores),
        groups=images.groups,
        smallest_certified_rate=images.smallest_rate,
        is_certified=calibration.is_certified,
        in_sample_rate=None if rates is None else rates.in_sample,
        held_out_rate=None if rates is None else rates.held_out,
        expected_alarms=images.expected(calibration.false_alarm_rate),
        roi_share=None if calibration.roi is None else calibration.roi.share,
        before=before,
        messages=tuple(_sentences(calibration, before)),
    )


def compare(before: Calibration, normals: NormalSet) -> Comparison:
    """Score normal images by the previous calibration, and test whether they are like its own.

    A Kolmogorov-Smirnov test on the scores, in which each group counts once; its p-value is the
    asymptotic one. `normals.roi_mask` must be the cells that `before.roi` leaves.
    """
    scores = before.image_scores(normals.evidence, normals.grid, normals.roi_mask)
    new, old = Conformal.fit(scores.numpy(), normals.groups), before.images
    at = np.union1d(new.scores, old.scores)
    distance = float(np.abs(_share_up_to(new, at) - _share_up_to(old, at)).max())
    size = math.sqrt(new.groups * old.groups / (new.groups + old.groups))
    above = new.weights[new.scores > np.float32(before.threshold)].sum(dtype=np.float64)
    return Comparison(
        threshold=before.threshold,
        rejected_before=float(above) / new.groups,
        median=_median(new),
        median_before=_median(old),
        p=float(kstwobign.sf(size * distance)),
    )


def uncertified_rate(calibration: Calibration, rate: float) -> str | None:
    """Say that a false-alarm rate cannot be certified and what holds instead; None if it can."""
    smallest = calibration.images.smallest_rate
    if smallest <= rate:
        return None
    return (
        f"A rate of {_percent(rate)} is NOT certified: it needs {_groups_for(rate)} "
        "independent groups. The "
        f"threshold is the largest score seen; expect false alarms at about {smallest:.2%}."
    )


def _groups_for(rate: float) -> str:
    groups = 1 / rate - 1
    return str(math.ceil(1 / rate) - 1) if groups < 1e9 else f"{groups:.0e}"


def _percent(rate: float) -> str:
    return f"{rate:.2%}" if rate >= 1e-4 else f"{100 * rate:.1e}%"


def _share_up_to(conformal: Conformal, at: np.ndarray) -> np.ndarray:
    total = np.append(0.0, np.cumsum(conformal.weights, dtype=np.float64)) / conformal.groups
    return total[np.searchsorted(conformal.scores, at, side="right")]


def _median(conformal: Conformal) -> float:
    total = np.cumsum(conformal.weights, dtype=np.float64)
    return float(conformal.scores[int(np.searchsorted(total, 0.5 * total[-1]))])


def _sentences(calibration: Calibration, before: Comparison | None) -> list[str]:
    images, rate = calibration.images, calibration.false_alarm_rate
    messages = [
        f"{len(images.scores)} normal images in {images.groups} independent groups; the smallest "
        f"false-alarm rate they can certify is {images.smallest_rate:.2%}."
    ]
    expected = images.expected(rate)
    messages.append(
        f"Of {expected.parts:,} normal parts expect about {expected.mean:.1f} to be rejected; with "
        f"95 % between {expected.low} and {expected.high}. More calibration parts narrow that."
    )
    if calibration.rates is not None:
        messages.append(
            f"Of the calibration images themselves {calibration.rates.in_sample:.2%} are rejected, "
            f"and {calibration.rates.held_out:.2%} where each group is judged without itself: "
            "believe the second."
        )
    if (uncertified := uncertified_rate(calibration, rate)) is not None:
        messages.append(uncertified)
    if before is not None:
        messages += _beside(before, calibration.threshold)
    return messages


def _beside(before: Comparison, threshold: float) -> list[str]:
    messages = [
        f"The threshold before was {before.threshold:.4f} (now {threshold:.4f}); it would have "
        f"rejected {before.rejected_before:.2%} of these images."
    ]
    if before.are_unlike:
        messages.append(
            "WARNING: these images are unlike the ones calibrated on before (median score "
            f"{before.median:.2f}, was {before.median_before:.2f}; p = {before.p:.1e}). Look "
            "whether camera, "
            "light or product changed, and whether all of them are good, before you use this."
        )
    return messages
