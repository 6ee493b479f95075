"""The fitted upper tail of normal scores: a threshold where too few parts certify one.

An image score is a mean of the highest cells, so that scores of good parts follow a Gumbel
distribution better than a normal one (Coles 2001, "An Introduction to Statistical Modeling of
Extreme Values", ch. 3). It is fitted by a probability plot without the highest scores: one odd
part among the calibration images moves the threshold little. How far a threshold must lie beyond
the fitted quantile, because the fit rests on few groups, and what share of good parts it may
reject, is found by simulation of the same fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anomaly.conformal import Conformal, check_rate

_LEFT_OUT = 0.1  # share of the groups, the highest, that the fit does not look at; one at the least
_DRAWS = 4000
_MOST_SIMULATED = 400  # groups: with more, the fit is as good as exact
_INTERVAL = (0.025, 0.975)
_ODD = 0.05  # chance that any of the good parts is called odd


@dataclass(frozen=True, slots=True)
class Estimate:
    """A threshold, and the share of good parts it may reject: `rate`, with 95 % `low` to `high`."""

    threshold: float
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Tail:
    """A Gumbel distribution fitted on the scores of `groups` independent groups."""

    location: float
    scale: float
    groups: int

    @classmethod
    def fit(cls, normals: Conformal) -> "Tail":
        """Fit on sorted scores in which each group counts once."""
        below = np.cumsum(normals.weights, dtype=np.float64) - 0.5 * normals.weights
        location, scale = _fitted(normals.scores.astype(np.float64), below / normals.groups)
        return cls(float(location), max(float(scale), 1e-6), normals.groups)

    def estimate(self, rate: float) -> Estimate:
        """Return the threshold that good parts exceed at `rate`, as far as so few can tell."""
        check_rate(rate)
        factor, low, high = _simulated(min(self.groups, _MOST_SIMULATED), round(rate, 6))
        return Estimate(self.location + factor * self.scale, rate, low, high)

    def share_above(self, score: float) -> float:
        """Return the share of good parts above a score, were the fit exact."""
        return float(_above((score - self.location) / self.scale))

    def odd(self, normals: Conformal) -> np.ndarray:
        """Return which of the scores, (N,) bool, no good part would have by chance."""
        limit = self.estimate(_ODD / (self.groups + 1)).threshold
        return normals.scores > limit


def _fitted(scores: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regress sorted scores (..., N) on the quantiles at `below` (N,): location, scale (...)."""
    groups_left_out = max(_LEFT_OUT, 1.0 / len(below))
    used = below < 1 - groups_left_out if len(below) > 3 else np.ones(len(below), bool)
    quantiles = -np.log(-np.log(below[used]))
    centred = quantiles - quantiles.mean()
    scale = (scores[..., used] * centred).sum(axis=-1) / max(float((centred**2).sum()), 1e-12)
    return scores[..., used].mean(axis=-1) - scale * quantiles.mean(), scale


def _above(standard: np.ndarray | float) -> np.ndarray:
    """Share of a standard Gumbel distribution above a value."""
    return np.asarray(-np.expm1(-np.exp(-np.asarray(standard, np.float64))))


@lru_cache(maxsize=256)
def _simulated(groups: int, rate: float) -> tuple[float, float, float]:
    """Factor of the scale at which `rate` of good parts are rejected on average; the interval."""
    generator = np.random.default_rng(0)
    scores = np.sort(generator.gumbel(size=(_DRAWS, groups)), axis=1)
    location, scale = _fitted(scores, (np.arange(groups) + 0.5) / groups)
    low, high = 0.0, 60.0
    for _ in range(50):  # rejected on average falls with the factor
        factor = 0.5 * (low + high)
        if _above(location + factor * scale).mean() > rate:
            low = factor
        else:
            high = factor
    rejected = _above(location + factor * scale)
    interval: Sequence[float] = np.quantile(rejected, _INTERVAL).tolist()
    return factor, interval[0], interval[1]
