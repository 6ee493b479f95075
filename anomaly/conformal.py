"""What a score means beside scores of normal images: p-values, thresholds, false alarms to expect.

The p-value is split-conformal (Vovk et al. 2005), with each session or lot counting once however
many of its images there are (Dunn, Wasserman and Ramdas 2023, "Distribution-Free Prediction Sets
for Two-Layer Hierarchical Models").

Of G groups the plain rule can only state multiples of 1 / (G + 1), and promises 3.6 % where 5 % of
27 groups are wished. A smoothed rule draws the new group's own place among them (Vovk et al. 2005,
section 2.2, "smoothed conformal predictors"): its thresholds reject exactly the stated share, but
two calibrations on the same parts differ. Here its thresholds are averaged. Where larger scores are
rarer ones, as they are beyond any threshold worth setting, the mean rejects no more (Jensen's
inequality), and comes much nearer to what is stated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import betabinom

from anomaly.errors import CalibrationError
from anomaly.types import FloatArray

_WELL_TOLD = 3  # groups that may lie above a threshold before it is well told
_LEAST_RATE, _MOST_RATE = 0.01, 0.1


def check_rate(rate: float) -> None:
    """Raise `CalibrationError` unless a false-alarm rate lies between 0 and 1."""
    if not 0 < rate < 1:
        raise CalibrationError(f"a false-alarm rate of {rate} makes no sense; want 0 < rate < 1")


def usual_rate(groups: int) -> float:
    """Return the false-alarm rate where nobody states one: what so many groups can tell well.

    Three groups' worth, so that one odd part does not set the threshold: 10 % with 29 groups or
    fewer, 5 % with 59, and 1 %, the least, with 299.
    """
    return min(max(_WELL_TOLD / (groups + 1), _LEAST_RATE), _MOST_RATE)


def group_weights(groups: Sequence[str]) -> FloatArray:
    """Weights (N,) with which each group counts once, however many members it has."""
    _, member, count = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights: FloatArray = (1.0 / count)[member].astype(np.float32)
    return weights


@dataclass(frozen=True, slots=True)
class Expected:
    """False alarms to expect among `parts` independent normal parts, and between what with 95 %."""

    parts: int
    mean: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Conformal:
    """Sorted scores of normal images and their weights; each group's weights sum to one.

    `is_smooth` is false in calibrations of earlier versions, which keep the plain rule and with it
    their thresholds.
    """

    scores: FloatArray
    weights: FloatArray
    is_smooth: bool = True
    # The smooth rule, by rising threshold: thresholds, and the mass of groups that each stands for.
    _thresholds: np.ndarray = field(init=False, repr=False, compare=False)
    _masses: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        thresholds, masses = _smooth_rule(self.scores, self.weights)
        object.__setattr__(self, "_thresholds", thresholds)
        object.__setattr__(self, "_masses", masses)

    @classmethod
    def fit(cls, scores: np.ndarray, groups: Sequence[str]) -> "Conformal":
        """Sort N scores; images of one group share its weight."""
        order = np.argsort(scores)
        return cls(scores[order].astype(np.float32), group_weights(groups)[order])

    def without(self, members: np.ndarray) -> "Conformal":
        """Return the same without some of the sorted scores, (N,) bool."""
        return Conformal(self.scores[~members], self.weights[~members], self.is_smooth)

    @property
    def groups(self) -> int:
        """How many independent groups stand behind the scores."""
        return round(float(self.weights.sum(dtype=np.float64)))

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate that this many groups can certify, 1 / (G + 1)."""
        return 1 / (self.groups + 1)

    def p_value(self, score: float) -> float:
        """Share of normal groups at least as anomalous, the new one included; in (0, 1]."""
        if self.is_smooth:
            return self._mass_above(score) / (self.groups + 1)
        first = int(np.searchsorted(self.scores, np.float32(score), side="left"))
        above = float(self.weights[first:].sum(dtype=np.float64))
        return min(1.0, (1 + above) / (self.groups + 1))

    def threshold(self, rate: float) -> float:
        """Return the score that normal images exceed at most at `rate`.

        A rate below `smallest_rate` cannot be certified; the largest score seen is returned then.
        """
        check_rate(rate)
        mass = rate * (self.groups + 1)
        if mass < 1 - 1e-9:
            return float(self.scores[-1])
        if self.is_smooth:
            return float(np.interp(mass, self._masses[::-1], self._thresholds[::-1]))
        cumulative = np.cumsum(self.weights[::-1], dtype=np.float64)[::-1]
        above = np.append(cumulative[1:], 0.0)  # weight strictly after each score in sorted order
        return float(self.scores[int(np.argmax(1 + above <= mass + 1e-9))])

    def expected(self, rate: float, parts: int = 1000) -> Expected:
        """Return how many of so many normal parts the threshold for `rate` will reject."""
        mass = rate * (self.groups + 1)
        if self.is_smooth and mass >= 1:
            return self._expected(rate, parts)
        return self.expected_above(self.threshold(rate), parts)

    def expected_above(self, threshold: float, parts: int = 1000) -> Expected:
        """Return how many of so many normal parts will lie above any threshold.

        Of G exchangeable groups, `a` lie above it: a new one then lies above it with a probability
        that is Beta(a + 1, G - a) (order statistics; Vovk 2012, "Conditional validity of inductive
        conformal predictors"), so that the count is beta-binomial. It counts the few calibration
        groups as well as the chance in the parts. The smooth rule has parts of a group for `a`.
        """
        if self.is_smooth:
            mass = self._mass_above(threshold)
        else:
            over = self.scores > np.float32(threshold)
            mass = 1 + float(self.weights[over].sum(dtype=np.float64))
        return self._expected(mass / (self.groups + 1), parts)

    def _expected(self, share: float, parts: int) -> Expected:
        """Return the count where that share of new groups lies above, on average."""
        mass = share * (self.groups + 1)
        others = max(self.groups + 1 - mass, 1e-6)
        low, high = betabinom(parts, mass, others).interval(0.95)
        return Expected(parts, parts * share, int(low), int(high))

    def _mass_above(self, score: float) -> float:
        """Groups that the smooth rule counts above a score, the new one included; 1 to G + 1."""
        score = float(np.float32(score))
        at = int(np.searchsorted(self._thresholds, score, side="left"))
        if at == 0:
            return self.groups + 1.0
        if at == len(self._thresholds):
            return 1.0
        low, high = self._thresholds[at - 1], self._thresholds[at]
        share = (score - low) / (high - low)
        return float(self._masses[at - 1] + share * (self._masses[at] - self._masses[at - 1]))


def _smooth_rule(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds of the smooth rule in rising order, and the mass that each stands for, (K,) each.

    With a mass of A groups, the smoothed rule rejects above the score that a mass of A - u exceeds,
    u uniform in [0, 1]: its mean is that of the scores within a mass of A - 1 to A, counted from
    the highest. It is linear in A between the masses where one of the two ends meets a score.
    """
    ends = np.cumsum(weights[::-1], dtype=np.float64)
    groups = max(1.0, round(float(ends[-1])))
    starts = np.concatenate([[0.0], ends])
    areas = np.concatenate([[0.0], np.cumsum(scores[::-1].astype(np.float64) * weights[::-1])])
    masses = np.unique(np.clip(np.concatenate([ends, starts + 1]), 1.0, groups))
    means = np.interp(masses, starts, areas) - np.interp(masses - 1, starts, areas)
    # As exact as scores are, so that equal scores stay equal; they rise as the mass falls.
    thresholds = np.maximum.accumulate(means[::-1].astype(np.float32)).astype(np.float64)
    return thresholds, masses[::-1]


def share_above(scores: np.ndarray, groups: Sequence[str], threshold: float) -> float:
    """Share of normals above a threshold, each group counting once."""
    fitted = Conformal.fit(scores, groups)
    above = fitted.weights[fitted.scores > np.float32(threshold)].sum(dtype=np.float64)
    return float(above) / fitted.groups


def left_out_rate(
    scores: np.ndarray, groups: Sequence[str], threshold_of: Callable[[Conformal], float]
) -> float:
    """Share of normals that a threshold for `rate` rejects, each group by the others' threshold."""
    fitted = Conformal.fit(scores, groups)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    member = member[np.argsort(scores)]  # in the order of `fitted`
    rejected = []
    for members in (member == number for number in range(len(names))):
        threshold = np.float32(threshold_of(fitted.without(members)))
        rejected.append(np.mean(fitted.scores[members] > threshold))
    return float(np.mean(rejected))
