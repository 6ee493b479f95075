"""Whether images still look like the calibration's and, if not, what changed: camera or parts.

Each statistic is watched in two ways. The population stability index (PSI) says how far the last
parts lie from the calibration images; below 0.1 is nothing, above 0.25 much. A conformal test
martingale in Shiryaev-Roberts form says whether that is more than chance (Vovk et al. 2021,
"Retrain or not retrain: conformal test martingales for change-point detection"): while nothing
changes, it raises on average at most one alarm in the stated number of parts. It assumes
exchangeable parts: where lots differ by themselves, calibrate on several lots.
"""

import bisect
import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from anomaly.calibration import Calibration
from anomaly.input_statistics import STATISTICS
from anomaly.types import FloatArray, check_finite

Finding = Literal["none", "camera", "parts"]
_WINDOW, _MIN_VALUES = 200, 50
_BINS = 10
_MOST_REMEMBERED = 20_000
_LAG = 200
_JUMP = 0.01  # share of the bet that moves to the other ways of betting with every part


def _bets(p: float) -> tuple[float, ...]:
    """Bets that p-values are not uniform, each a density on (0, 1): small, large, or at an end."""
    centred = p - 0.5
    return (
        1.0,
        1.0 + centred,
        1.0 - centred,
        1.0 + 2 * centred,
        1.0 - 2 * centred,
        0.5 / math.sqrt(p),
        0.5 / math.sqrt(1 - p),
    )


_WAYS = len(_bets(0.5))


class ChangeTest:
    """Conformal Shiryaev-Roberts test of one statistic.

    While nothing changes, `value` takes about N parts, or more, to reach N on average. A value is
    ranked among those of the calibration (each group counts once) and all that are older than a
    lag: if it were ranked among the latest ones too, a change would soon be compared with itself.
    The lag is no longer than the known history, so that a few calibration parts are not taken for
    the truth.
    """

    def __init__(self, reference: FloatArray, weights: FloatArray, seed: int = 0) -> None:
        self.value = 0.0
        order = np.argsort(reference)
        self._reference = [float(value) for value in reference[order]]
        self._below: list[float] = [0.0, *np.cumsum(weights[order], dtype=np.float64).tolist()]
        self._later: list[float] = []  # sorted
        self._waiting: deque[float] = deque()
        self._shares = [1 / _WAYS] * _WAYS
        self._random = np.random.default_rng(seed)

    def add(self, value: float) -> None:
        """Bet on the rank of one more value."""
        p = self._p_value(value)
        shares = [(1 - _JUMP) * share + _JUMP / _WAYS for share in self._shares]
        won = [share * bet for share, bet in zip(shares, _bets(p), strict=True)]
        total = sum(won)
        self._shares = [weight / total for weight in won]
        self.value = min((self.value + 1) * total, 1e300)
        self._remember(value)

    def _p_value(self, value: float) -> float:
        """Smoothed share of known values at least as large, the new one included."""
        seen = self._below[-1] + len(self._later)
        below = self._below[bisect.bisect_left(self._reference, value)]
        below += bisect.bisect_left(self._later, value)
        up_to = self._below[bisect.bisect_right(self._reference, value)]
        up_to += bisect.bisect_right(self._later, value)
        tied = up_to - below + 1
        p = (seen - up_to + self._random.uniform() * tied) / (seen + 1)
        return min(max(p, 1e-9), 1 - 1e-9)

    def _remember(self, value: float) -> None:
        self._waiting.append(value)
        while len(self._waiting) > min(_LAG, self._below[-1] + len(self._later)):
            late = self._waiting.popleft()
            if len(self._later) < _MOST_REMEMBERED:
                bisect.insort(self._later, late)


class Stability:
    """Population stability index of the last parts against the calibration images."""

    def __init__(self, reference: FloatArray, weights: FloatArray) -> None:
        order = np.argsort(reference)
        share = np.cumsum(weights[order], dtype=np.float64) / weights.sum(dtype=np.float64)
        shares = np.arange(1, _BINS) / _BINS
        self._edges = reference[order][np.searchsorted(share, shares)].astype(np.float64)
        bins = np.searchsorted(self._edges, reference, side="left")
        self._medians = np.bincount(bins, weights=weights, minlength=_BINS).astype(np.float64)
        self._medians /= self._medians.sum()
        self._size = float(weights.sum(dtype=np.float64))
        self._last: deque[int] = deque(maxlen=_WINDOW)

    def add(self, value: float) -> None:
        """Take one more value."""
        self._last.append(bisect.bisect_left(self._edges, value))

    @property
    def psi(self) -> float | None:
        """The index, less what chance alone gives; None until there are enough parts."""
        count = len(self._last)
        if count < _MIN_VALUES:
            return None
        now = (np.bincount(list(self._last), minlength=_BINS) + 0.5) / (count + 0.5 * _BINS)
        expected = (self._medians * self._size + 0.5) / (self._size + 0.5 * _BINS)
        chance = (_BINS - 1) * (1 / count + 1 / self._size)
        return max(0.0, float(((now - expected) * np.log(now / expected)).sum()) - chance)


@dataclass(frozen=True, slots=True)
class Changed:
    """One statistic: median now and at calibration, PSI, and since when it has changed, if so."""

    name: str
    now: float | None
    before: float
    psi: float | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Drift:
    """What a watch found (`camera`, `parts`, `none`) after so many `parts`; statistics, advice."""

    finding: Finding
    parts: int
    statistics: tuple[Changed, ...]
    advice: str


class Watch:
    """Watches one model's parts from one camera since the service or the calibration began.

    `parts_per_alarm`: while nothing changes, one alarm of all statistics together comes in so many
    parts on average, or more. A change stays found until the next calibration.
    """

    def __init__(self, calibration: Calibration, parts_per_alarm: float = 100_000) -> None:
        statistics, images = calibration.reference, calibration.images
        self.names: tuple[str, ...] = ("score",)
        references = [(images.scores, images.weights)]
        if statistics is not None:
            self.names += statistics.names
            references += [(column, statistics.weights) for column in statistics.values.T]
        self._tests = [ChangeTest(*reference, seed) for seed, reference in enumerate(references)]
        self._stability = [Stability(values, weights) for values, weights in references]
        self._medians = [float(np.median(values)) for values, _ in references]
        self._middle = [np.quantile(values, (0.25, 0.75)) for values, _ in references]
        self._last: deque[tuple[float, ...]] = deque(maxlen=_WINDOW)
        self._since: list[datetime | None] = [None] * len(self.names)
        self._alarm = parts_per_alarm * len(self.names)
        self.parts = 0

    def add(self, score: float, inputs: FloatArray, embedding: float | None, at: datetime) -> None:
        """Take one inspected part. Raises `ScoreNotFinite`: NaN has no rank among numbers."""
        values = (score, *inputs.tolist(), embedding or 0.0)[: len(self.names)]
        check_finite(**dict(zip(self.names, values, strict=True)))
        self.parts += 1
        self._last.append(values)
        for i, value in enumerate(values):
            self._tests[i].add(value)
            self._stability[i].add(value)
            if self._since[i] is None and self._tests[i].value >= self._alarm:
                self._since[i] = at

    def psi(self, name: str) -> float | None:
        """Population stability index of one statistic."""
        return self._stability[self.names.index(name)].psi

    def ratio(self, name: str) -> float | None:
        """Mean of the last parts over the calibration's median; None before the first part."""
        if not self._last:
            return None
        i = self.names.index(name)
        return float(np.mean([values[i] for values in self._last])) / self._medians[i]

    @property
    def finding(self) -> Finding:
        """What changed.

        When a camera changes, it changes every image: the usual image moves. When only some images
        differ, some parts differ. Scores follow a camera, so they are looked at last.
        """
        changed = [i for i, at in enumerate(self._since) if at is not None]
        if any(self.names[i] in STATISTICS and self._has_moved(i) for i in changed):
            return "camera"
        return "parts" if changed else "none"

    def _has_moved(self, i: int) -> bool:
        """Whether the median of the last parts lies outside the calibration's middle half."""
        low, high = self._middle[i]
        now = float(np.median([values[i] for values in list(self._last)[-_MIN_VALUES:]]))
        return not low <= now <= high

    @property
    def drift(self) -> Drift:
        """All of it."""
        statistics = tuple(self._changed(i) for i in range(len(self.names)))
        return Drift(self.finding, self.parts, statistics, _advice(self.finding, statistics))

    def _changed(self, i: int) -> Changed:
        now = float(np.median([values[i] for values in self._last])) if self._last else None
        stability = self._stability[i]
        return Changed(self.names[i], now, self._medians[i], stability.psi, self._since[i])


def _advice(finding: Finding, statistics: tuple[Changed, ...]) -> str:
    changed = ", ".join(
        f"{statistic.name} {statistic.now:.3g}, was {statistic.before:.3g}"
        for statistic in statistics
        if statistic.since is not None and statistic.now is not None
    )
    if finding == "camera":
        return (
            f"The images changed ({changed}): look at lamp, lens, exposure and position. Put "
            "it right, or "
            "calibrate again on parts seen in the new light. Do not raise the threshold instead."
        )
    if finding == "parts":
        return (
            f"The parts changed and the camera did not ({changed}): look at the last rejects. If "
            "they are good, calibrate again with them; if not, something is wrong with the line. "
            "Do not raise the threshold instead."
        )
    return "Nothing has changed that is more than chance."
