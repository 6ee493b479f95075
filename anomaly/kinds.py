"""Kinds of defects from a few labelled examples: what is this region, and is it any of them?

Regions are unit vectors (`anomaly.description`). A linear classifier names the likeliest kind; how
far a region lies from that kind, held against how far the labelled examples lay from their own
while they were left out, is a conformal p-value. A region that is farther off than nearly all of
them is `unknown`: a new kind is said, not guessed. The distance is Mahalanobis's with one
covariance of all kinds (Lee et al. 2018), the p-value is over the examples of all kinds together:
of known kinds, no more than `UNKNOWN_BELOW` are called unknown on average, however they are mixed
here. What this does not know: a new kind that looks like an old one is called by the old name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression

from anomaly.errors import ConfigError, require_shape
from anomaly.types import FloatArray, Region

UNKNOWN = "unknown"
UNKNOWN_BELOW = 0.1
MOST_KINDS = 30
MOST_EXAMPLES = 100  # of each kind, the newest
_SOFTNESS = 30.0  # inverse strength of the classifier's penalty; 10 to 1000 do the same (LOG)
_HIGH = 0.5  # of the highest peak of a part
_LEAST_SHRINKAGE = 1e-6
_FOLDS = 10  # in which examples are left out, at the most


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled regions: `vectors` (N, D) float32 of unit length, and of each its kind and part.

    Regions of one part are left out together. `kinds` are as they are to be said.
    """

    vectors: FloatArray
    kinds: tuple[str, ...]
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        ok = self.vectors.ndim == 2 and len(self.vectors) == len(self.kinds) == len(self.parts)
        require_shape("vectors", self.vectors.shape, f"({len(self.kinds)}, D)", ok=ok)

    @classmethod
    def joined(cls, several: Sequence["Examples"]) -> "Examples":
        """Put examples of the same model together; `several` are one or more."""
        return cls(
            np.concatenate([examples.vectors for examples in several]),
            tuple(kind for examples in several for kind in examples.kinds),
            tuple(part for examples in several for part in examples.parts),
        )

    def renamed(self, names: Mapping[str, str]) -> "Examples | None":
        """Return examples with the names of their kinds changed, without those called `unknown`.

        None where none is left.
        """
        kinds = [names[kind] for kind in self.kinds]
        rows = [row for row, kind in enumerate(kinds) if kind != UNKNOWN]
        if not rows:
            return None
        return Examples(
            self.vectors[rows],
            tuple(kinds[row] for row in rows),
            tuple(self.parts[row] for row in rows),
        )

    def bounded(self) -> "Examples":
        """Return the last examples of each kind, of the kinds that have most."""
        rows: dict[str, list[int]] = {}
        for row, kind in enumerate(self.kinds):
            rows.setdefault(kind, []).append(row)
        kinds = sorted(rows, key=lambda kind: (-len(rows[kind]), kind))[:MOST_KINDS]
        picked = sorted(row for kind in kinds for row in rows[kind][-MOST_EXAMPLES:])
        return Examples(
            self.vectors[picked],
            tuple(self.kinds[row] for row in picked),
            tuple(self.parts[row] for row in picked),
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """How many examples each kind has, by name."""
        return {kind: self.kinds.count(kind) for kind in sorted(set(self.kinds))}

    @property
    def digest(self) -> str:
        """SHA-256 of vectors and names, whatever their order; what follows from them has it."""
        rows = sorted(
            kind.encode() + b"\0" + np.float16(vector).tobytes()
            for kind, vector in zip(self.kinds, self.vectors, strict=True)
        )
        return hashlib.sha256(b"\0".join(rows)).hexdigest()


def high_enough(peaks: Sequence[float]) -> list[int]:
    """Return which regions a part's name is of where nobody said: by their peaks, the high ones."""
    return [row for row, peak in enumerate(peaks) if peak >= _HIGH * max(peaks)]


@dataclass(frozen=True, slots=True)
class Naming:
    """What a region is called, and its p-value; the p-value is of the likeliest kind."""

    kind: str
    p: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How examples lie around the centres of their kinds, shrunk towards a ball.

    `axes` (r, D) are principal directions, `variances` (r,) those along them and `floor` that of
    any other direction: a covariance of (D, D) in the rank that so few examples can have.
    """

    axes: FloatArray
    variances: FloatArray
    floor: float

    @classmethod
    def around(cls, deviations: FloatArray) -> "Spread":
        """Estimate from deviations (N, D) as Ledoit and Wolf (2004) do."""
        count, width = deviations.shape
        total = float(np.square(deviations).sum()) / count
        if not total > 0:  # one example of each kind: any direction is as likely
            return cls(np.zeros((0, width), np.float32), np.zeros(0, np.float32), 1.0)
        shrinkage = ledoit_wolf_shrinkage(deviations, assume_centered=True)
        _, lengths, axes = np.linalg.svd(deviations, full_matrices=False)
        floor = max(shrinkage, _LEAST_SHRINKAGE) * total / width
        variances = (1 - shrinkage) * np.square(lengths) / count + floor
        return cls(axes.astype(np.float32), variances.astype(np.float32), floor)

    def distances(self, deviations: FloatArray) -> FloatArray:
        """Squared Mahalanobis distances of (n, D) deviations, (n,)."""
        along = np.square(deviations @ self.axes.T)
        beside = np.maximum(np.square(deviations).sum(axis=1) - along.sum(axis=1), 0)
        return np.asarray((along / self.variances).sum(axis=1) + beside / self.floor, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class KindHead:
    """Names regions by labelled examples; made by `fit_kinds`.

    `weights` (K, D) and `bias` (K,) are the classifier's, `centres` (K, D) the kinds' means;
    `distances` are those of the examples that were left out, ascending.
    """

    kinds: tuple[str, ...]
    weights: FloatArray
    bias: FloatArray
    centres: FloatArray
    spread: Spread
    distances: FloatArray
    digest: str

    def likeliest(self, vectors: FloatArray) -> list[str]:
        """Name the likeliest kind of each of (n, D) descriptions, like it or not."""
        return [self.kinds[number] for number in self._likeliest(vectors)]

    def _likeliest(self, vectors: FloatArray) -> np.ndarray:
        width = self.centres.shape[1]
        ok = vectors.ndim == 2 and vectors.shape[1] == width
        require_shape("vectors", vectors.shape, f"(n, {width})", ok=ok)
        return np.asarray((vectors @ self.weights.T + self.bias).argmax(axis=1))

    def name(self, vectors: FloatArray) -> tuple[Naming, ...]:
        """Name each of (n, D) descriptions of regions."""
        likeliest = self._likeliest(vectors)
        away = self.spread.distances(vectors - self.centres[likeliest])
        farther = len(self.distances) - np.searchsorted(self.distances, away, side="left")
        p_values = (1 + farther) / (1 + len(self.distances))
        return tuple(
            Naming(self.kinds[kind] if p >= UNKNOWN_BELOW else UNKNOWN, float(p))
            for kind, p in zip(likeliest, p_values, strict=True)
        )

    def named(self, regions: Sequence[Region], vectors: FloatArray) -> tuple[Region, ...]:
        """Return regions with their kinds, by their descriptions (n, D)."""
        return tuple(
            replace(region, kind=naming.kind, kind_p=round(naming.p, 4))
            for region, naming in zip(regions, self.name(vectors), strict=True)
        )


def fit_kinds(examples: Examples) -> KindHead:
    """Learn kinds from labelled regions, one of each at least; takes well under a second.

    Raises `ConfigError` where there are none, or one is called `unknown`.
    """
    if not examples.kinds or UNKNOWN in examples.kinds:
        raise ConfigError(f"kinds are learned from one example or more; none is called {UNKNOWN!r}")
    names = sorted(set(examples.kinds))
    numbers = np.array([names.index(kind) for kind in examples.kinds])
    weights, bias = _classifier(examples.vectors, numbers, len(names))
    centres = _centres(examples.vectors, numbers, len(names))
    return KindHead(
        kinds=tuple(names),
        weights=weights,
        bias=bias,
        centres=centres,
        spread=Spread.around(examples.vectors - centres[numbers]),
        distances=_left_out(examples, numbers),
        digest=examples.digest,
    )


def _classifier(
    vectors: FloatArray, numbers: np.ndarray, kinds: int
) -> tuple[FloatArray, FloatArray]:
    if kinds == 1:
        return np.zeros((1, vectors.shape[1]), np.float32), np.zeros(1, np.float32)
    fitted = LogisticRegression(C=_SOFTNESS, class_weight="balanced", max_iter=500)
    fitted.fit(vectors, numbers)
    weights, bias = fitted.coef_, fitted.intercept_
    if kinds == 2:  # scikit-learn gives the second's side alone
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    return weights.astype(np.float32), bias.astype(np.float32)


def _centres(vectors: FloatArray, numbers: np.ndarray, kinds: int) -> FloatArray:
    return np.stack([vectors[numbers == kind].mean(axis=0) for kind in range(kinds)])


def _left_out(examples: Examples, numbers: np.ndarray) -> FloatArray:
    """Distances of examples from their own kind as the others give it, ascending.

    An example whose kind has no other part counts as infinitely far: it says nothing of how near
    its like lies, and without it unknowns would be found where nobody can tell.
    """
    _, parts = np.unique(np.array(examples.parts), return_inverse=True)
    folds = parts % min(_FOLDS, int(parts.max()) + 1)
    distances = np.full(len(numbers), np.inf, np.float32)
    for fold in np.unique(folds):
        inside = folds != fold
        present = np.unique(numbers[inside])
        out = (folds == fold) & np.isin(numbers, present)
        if not out.any():
            continue
        order = np.searchsorted(present, numbers)  # of a kind that is present
        centres = _centres(examples.vectors[inside], order[inside], len(present))
        spread = Spread.around(examples.vectors[inside] - centres[order[inside]])
        distances[out] = spread.distances(examples.vectors[out] - centres[order[out]])
    return np.sort(distances)
