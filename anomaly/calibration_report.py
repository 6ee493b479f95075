"""What a calibration promises and what it doesn't, in figures and in plain sentences."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import kstwobign

from anomaly.calibration import Calibration, Mode
from anomaly.conformal import Conformal, Expected
from anomaly.normal_set import NormalSet
from anomaly.tail import Tail
from anomaly.tradeoff import groups_above, trade_off

_UNLIKE_P = 0.001
_NAMED = 10  # odd parts that a sentence names


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
    """A calibration's promises.

    `mode` is what stands behind the threshold. `estimate_low` and `estimate_high` are shares in
    [0, 1], None unless it is estimated: with 95 % it rejects as many of the good parts.
    `fold_models` is how many models scored the calibration images, each those that it had not seen
    (0: one that had seen none). `odd` names the groups of those that score as no good part would by
    chance.
    """

    threshold: float
    mode: Mode
    false_alarm_rate: float
    warn_threshold: float | None
    warn_rate: float | None
    images: int
    groups: int
    smallest_certified_rate: float
    is_certified: bool
    estimate_low: float | None
    estimate_high: float | None
    fold_models: int
    odd: tuple[str, ...]
    in_sample_rate: float | None
    held_out_rate: float | None
    expected_alarms: Expected
    roi_share: float | None
    before: Comparison | None
    messages: tuple[str, ...]


def state(calibration: Calibration, before: Comparison | None = None) -> CalibrationReport:
    """Say what a calibration promises, beside the previous one if there was one."""
    images, rates, estimate = calibration.images, calibration.rates, calibration.estimate
    return CalibrationReport(
        threshold=calibration.threshold,
        mode=calibration.mode,
        false_alarm_rate=calibration.false_alarm_rate,
        warn_threshold=calibration.warn_threshold,
        warn_rate=calibration.warn_rate,
        images=len(images.scores),
        groups=images.groups,
        smallest_certified_rate=images.smallest_rate,
        is_certified=calibration.is_certified,
        estimate_low=None if estimate is None else estimate.low,
        estimate_high=None if estimate is None else estimate.high,
        fold_models=calibration.fold_models,
        odd=calibration.odd,
        in_sample_rate=None if rates is None else rates.in_sample,
        held_out_rate=None if rates is None else rates.held_out,
        expected_alarms=trade_off(calibration).false_alarms,
        roi_share=None if calibration.roi is None else calibration.roi.share,
        before=before,
        messages=(
            *_of_images(calibration),
            *_of_threshold(calibration),
            *_of_alarms(calibration),
            *_of_odd(calibration.odd),
            *(() if before is None else _beside(before, calibration.threshold)),
        ),
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
    mode = calibration.mode_at(rate)
    if mode == "certified":
        return None
    needed = (
        f"A rate of {_percent(rate)} is NOT certified: it needs {_groups_for(rate)} "
        "independent groups."
    )
    images = calibration.images
    if mode == "estimated":
        estimate = Tail.fit(images).estimate(rate)
        return (
            f"{needed} The threshold is an estimate from the {images.groups} there are: with 95 % "
            f"it rejects {_between(estimate.low, estimate.high)} good parts."
        )
    return (
        f"{needed} The threshold is the largest score seen; expect false alarms at about "
        f"{images.smallest_rate:.2%}."
    )


def _between(low: float, high: float) -> str:
    """Say a range of shares in whole parts of a round number, rounded outwards."""
    parts = next((n for n in (100, 1000, 10_000, 100_000) if high * n >= 2), 1_000_000)
    fewest, most = math.floor(low * parts), math.ceil(high * parts)
    return f"between {fewest:,} and {most:,} of {parts:,}"


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


def _of_images(calibration: Calibration) -> list[str]:
    images = calibration.images
    counted = (
        f"{len(images.scores)} normal images in {images.groups} independent groups; the smallest "
        f"false-alarm rate they can certify is {images.smallest_rate:.2%}."
    )
    if calibration.mode == "certified":
        counted += (
            f" The rate of {_percent(calibration.false_alarm_rate)} is certified: on average no "
            "more of the good parts are rejected, as long as they are like these."
        )
    messages = [counted]
    if calibration.fold_models:
        messages.append(
            f"{calibration.fold_models} further models scored them, each the images that it had "
            "not seen. The model that inspects has seen them all."
        )
    return messages


def _of_threshold(calibration: Calibration) -> list[str]:
    """What stands behind the threshold."""
    rate, images = calibration.false_alarm_rate, calibration.images
    if calibration.mode == "given":
        above = groups_above(images, calibration.threshold)
        most = images.expected_above(calibration.threshold)
        return [
            "Somebody set this threshold by hand, so that no false-alarm rate is promised. Of the "
            f"{images.groups} groups of good parts {_count(above)} lie above it. By that "
            f"count it rejects, with 95 %, at most {most.high} of {most.parts:,} good parts."
        ]
    uncertified = uncertified_rate(calibration, rate)
    return [] if uncertified is None else [uncertified]


def _of_alarms(calibration: Calibration) -> list[str]:
    point, rates = trade_off(calibration), calibration.rates
    expected = point.false_alarms
    by = "" if point.basis == "counted" else ", by the estimate"
    messages = [
        f"Of {expected.parts:,} normal parts expect about {expected.mean:.1f} to be rejected{by}; "
        f"with 95 % between {expected.low} and {expected.high}. More calibration parts narrow that."
    ]
    if rates is not None:
        messages.append(
            f"Of the calibration images themselves {rates.in_sample:.2%} are rejected, "
            f"and {rates.held_out:.2%} where each group is judged without itself: "
            "believe the second."
        )
    return messages


def _of_odd(groups: tuple[str, ...]) -> list[str]:
    if not groups:
        return []
    more = ", …" if len(groups) > _NAMED else ""
    return [
        f"Look at {', '.join(groups[:_NAMED])}{more}: it scores higher than good parts do by "
        "chance. If a part is not good, calibrate again without it."
    ]


def _count(groups: float) -> str:
    return f"{groups:.1f}".removesuffix(".0")


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
