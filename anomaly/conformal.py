"""What a score means beside scores of normal images: p-values, thresholds, false alarms to expect.

The p-value is split-conformal (Vovk et al. 2005), with each session or lot counting once however
many of its images there are (Dunn, Wasserman and Ramdas 2023, "Distribution-Free Prediction Sets
for Two-Layer Hierarchical Models").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom

from anomaly.errors import CalibrationError
from anomaly.types import FloatArray


def check_rate(rate: float) -> None:
    """Raise `CalibrationError` unless a false-alarm rate lies between 0 and 1."""
    if not 0 < rate < 1:
        raise CalibrationError(f"a false-alarm rate of {rate} makes no sense; want 0 < rate < 1")


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
    """Sorted scores of normal images and their weights; each group's weights sum to one."""

    scores: FloatArray
    weights: FloatArray

    @classmethod
    def fit(cls, scores: np.ndarray, groups: Sequence[str]) -> "Conformal":
        """Sort N scores; images of one group share its weight."""
        order = np.argsort(scores)
        return cls(scores[order].astype(np.float32), group_weights(groups)[order])

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
        first = int(np.searchsorted(self.scores, np.float32(score), side="left"))
        above = float(self.weights[first:].sum(dtype=np.float64))
        return min(1.0, (1 + above) / (self.groups + 1))

    def threshold(self, rate: float) -> float:
        """Smallest calibration score that normal images exceed at most at `rate`.

        A rate below `smallest_rate` cannot be certified; the largest score seen is returned then.
        """
        check_rate(rate)
        cumulative = np.cumsum(self.weights[::-1], dtype=np.float64)[::-1]
        above = np.append(cumulative[1:], 0.0)  # weight strictly after each score in sorted order
        certified = (1 + above) / (self.groups + 1) <= rate + 1e-9
        return float(self.scores[int(np.argmax(certified))] if certified.any() else self.scores[-1])

    def expected(self, rate: float, parts: int = 1000) -> Expected:
        """Return how many of so many normal parts the threshold for `rate` will reject.

        Of G exchangeable groups, `a` lie above the threshold: a new one then lies above it with a
        probability that is Beta(a + 1, G - a) (order statistics; Vovk 2012, "Conditional validity
        of inductive conformal predictors"), so that the count is beta-binomial. It counts the few
        calibration groups as well as the chance in the parts.
        """
        above = float(self.weights[self.scores > np.float32(self.threshold(rate))].sum())
        first, second = above + 1, max(self.groups - above, 1e-6)
        low, high = betabinom(parts, first, second).interval(0.95)
        return Expected(parts, parts * first / (first + second), int(low), int(high))


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
        rest_fitted = Conformal(fitted.scores[~members], fitted.weights[~members])
        rejected.append(np.mean(fitted.scores[members] > np.float32(threshold_of(rest_fitted))))
    return float(np.mean(rejected))
