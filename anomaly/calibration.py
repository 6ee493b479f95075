"""What is normal, measured on normal images, and the threshold for a stated false-alarm rate.

Scores of the calibration images are taken out of fold: an image never helps to normalise itself.
Choices that differ from product to product - what each kind of
evidence weighs, the normalisers, the smoothing, the image score - are made here from normals and
synthetic defects, never from real ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from anomaly.conformal import Conformal, check_rate
from anomaly.errors import CalibrationError
from anomaly.normalise import NORMALISERS, Normaliser, UniformNormaliser
from anomaly.reduction import Reduction
from anomaly.scoring import PatchErrors
from anomaly.types import Grid

_FOLDS = 5


# The first of each is the default; another one must beat it by a margin to be chosen, because synthetic
# defects do not tell real ones well enough to follow them blindly (docs/LOG.md).
NORMALISER_SETS: tuple[tuple[str, ...], ...] = (
    ("uniform",),
    ("uniform", "position"),
    ("position",),
)
REDUCTIONS = (
    Reduction(0.5, 0.01),
    Reduction(0.5, 0.0),
    Reduction(0.0, 0.002),
    Reduction(0.8, 0.02),
    Reduction(0.8, 0.1),
)
MAP_SMOOTHINGS = (1.0, 0.5, 0.0)  # in patches; the first where there is nothing to choose by
_MARGIN = 0.03
_LEAST_POWER = 0.01  # evidence that tells nothing keeps this much


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to score that was tried, and how well it told synthetic defects from normals.

    `synthetic_auroc` is None where there were no corrupted copies to try it on.
    """

    normalisers: tuple[str, ...]
    reduction: Reduction
    synthetic_auroc: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Makes raw evidence comparable, fuses it and gives it a threshold.

    `weights` (E,) are what each kind of evidence counts; `reduction` makes the image score, while maps
    are smoothed by `map_smoothing` patches. `images` are the image scores of held-out normals, `peaks` the
    maxima of their maps; thresholds for both follow from `false_alarm_rate`.
    """

    normalisers: tuple[Normaliser, ...]
    weights: torch.Tensor
    reduction: Reduction
    images: Conformal
    peaks: Conformal
    false_alarm_rate: float
    map_smoothing: float = MAP_SMOOTHINGS[0]
    candidates: tuple[Candidate, ...] = ()

    @property
    def threshold(self) -> float:
        """Image score above which a part is NG."""
        return self.images.threshold(self.false_alarm_rate)

    @property
    def map_threshold(self) -> float:
        """Map value above which a place is anomalous; what heatmaps are anchored at."""
        return max(self.peaks.threshold(self.false_alarm_rate), 1e-3)

    @property
    def is_certified(self) -> bool:
        """Whether there are enough normal groups for the stated false-alarm rate."""
        return self.images.smallest_rate <= self.false_alarm_rate

    def at_rate(self, rate: float) -> "Calibration":
        """Return the same calibration with another stated false-alarm rate."""
        check_rate(rate)
        return replace(self, false_alarm_rate=rate)

    def patch_scores(self, errors: PatchErrors) -> torch.Tensor:
        """Return comparable scores of every repeat, (B, R, L), not smoothed."""
        return _fuse(self.normalisers, self.weights, errors)

    def map_scores(self, scores: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Smooth patch scores (..., L) into what heatmaps and regions are drawn from."""
        return Reduction(self.map_smoothing).smooth(scores, grid)


@dataclass(frozen=True, slots=True)
class NormalSet:
    """Evidence on N normal images, the group each belongs to, and corrupted copies of them.

    `grid` is the map's; `corrupted` holds the evidence on M copies with synthetic defects; copy j was
    made of image `origin[j]`, so that both fall into the same fold; `altered` (M, L) bool are the cells
    that its defect covers.
    """

    errors: PatchErrors
    groups: tuple[str, ...]
    grid: Grid
    corrupted: PatchErrors | None = None
    origin: tuple[int, ...] = ()
    altered: torch.Tensor | None = None


def calibrate(normals: NormalSet, false_alarm_rate: float = 0.01) -> Calibration:
    """Fit a calibration on normal images, choosing how to score by synthetic defects if there are.

    Raises `CalibrationError` with fewer than two independent groups.
    """
    check_rate(false_alarm_rate)
    folds = _folds(normals.groups)
    weights = weigh(normals)
    held_out = [_out_of_fold(normals, kinds, weights, folds) for kinds in NORMALISER_SETS]
    tried = [
        (_try(kinds, reduction, one, normals.grid), one)
        for kinds, one in zip(NORMALISER_SETS, held_out, strict=True)
        for reduction in REDUCTIONS
    ]
    best, scores = _choose(tried)
    normal = scores.normal.mean(dim=1)  # (N, L)
    map_smoothing = _map_smoothing(normals, scores)
    maps = Reduction(map_smoothing, 0.0)
    return Calibration(
        normalisers=_fit(best.normalisers, normals.errors),
        weights=weights,
        reduction=best.reduction,
        images=Conformal.fit(best.reduction(normal, normals.grid).numpy(), normals.groups),
        peaks=Conformal.fit(maps(normal, normals.grid).numpy(), normals.groups),
        false_alarm_rate=false_alarm_rate,
        map_smoothing=map_smoothing,
        candidates=tuple(candidate for candidate, _ in tried),
    )


def weigh(normals: NormalSet) -> torch.Tensor:
    """Return what each kind of evidence counts, (E,).

    Each family has an equal say: its map is brought to unit spread on the normals. Within a family, a kind
    counts by how well it alone tells corrupted copies from normals (its AUROC above chance); without copies,
    all count the same. So a fine stage leads where defects are small, a coarse one where they are large.
    """
    usual = UniformNormaliser.fit(normals.errors.mean)
    scores = usual(normals.errors.error).mean(dim=1)  # (N, E, L)
    copies = None if normals.corrupted is None else usual(normals.corrupted.error).mean(dim=1)
    families = [name.partition(".")[0] for name in normals.errors.names]
    power = torch.tensor([_power(i, scores, copies, normals.grid) for i in range(len(families))])
    weights = torch.zeros(len(families))
    for family in set(families):
        own = torch.tensor([name == family for name in families])
        share = power[own] / power[own].sum()
        spread = torch.einsum("nel,e->nl", scores[:, own], share).std()
        weights[own] = share / spread.clamp(min=1e-6) / len(set(families))
    return weights


def _map_smoothing(normals: NormalSet, scores: "_HeldOut") -> float:
    """Choose the smoothing whose maps tell altered cells best: fine defects want little of it."""
    altered = normals.altered
    if scores.corrupted is None or altered is None or not altered.any():
        return MAP_SMOOTHINGS[0]
    copies, label = scores.corrupted.mean(dim=1), altered.flatten().numpy()
    found = {
        smoothing: roc_auc_score(
            label, Reduction(smoothing).smooth(copies, normals.grid).flatten().numpy()
        )
        for smoothing in MAP_SMOOTHINGS
    }
    return max(found, key=lambda smoothing: found[smoothing])


def _power(kind: int, scores: torch.Tensor, copies: torch.Tensor | None, grid: Grid) -> float:
    if copies is None:
        return 1.0
    both = torch.cat([scores[:, kind], copies[:, kind]])
    reduction = REDUCTIONS[0]
    image = reduction(both, grid).numpy()
    label = np.arange(len(image)) >= len(scores)
    return max(float(roc_auc_score(label, image)) - 0.5, _LEAST_POWER)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Out-of-fold scores: normals (N, R, L) and corrupted copies (M, R, L), not yet smoothed."""

    normal: torch.Tensor
    corrupted: torch.Tensor | None


def _fuse(
    normalisers: Sequence[Normaliser], weights: torch.Tensor, errors: PatchErrors
) -> torch.Tensor:
    """Average over normalisers, then weigh the kinds of evidence: (B, R, L)."""
    each = [torch.einsum("brel,e->brl", n(errors.error), weights) for n in normalisers]
    return torch.stack(each).mean(dim=0)


def _fit(kinds: Sequence[str], errors: PatchErrors) -> tuple[Normaliser, ...]:
    return tuple(NORMALISERS[kind].fit(errors.mean) for kind in kinds)


def _folds(groups: Sequence[str]) -> torch.Tensor:
    """Assign every image a fold, whole groups together: (N,) int64."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise CalibrationError(
            f"calibration needs normal images of at least 2 independent parts or sessions, found "
            f"{len(names)}; collect more, a few dozen at the least"
        )
    order = np.random.default_rng(0).permutation(len(names))
    return torch.from_numpy((order % min(_FOLDS, len(names)))[member])


def _out_of_fold(
    normals: NormalSet, kinds: Sequence[str], weights: torch.Tensor, folds: torch.Tensor
) -> _HeldOut:
    """Score every image with normalisers that were fitted without its fold."""
    batch, repeats, _, length = normals.errors.error.shape
    normal = torch.zeros(batch, repeats, length)
    corrupted, copy_folds = None, folds[list(normals.origin)]
    if normals.corrupted is not None:
        corrupted = torch.zeros(len(normals.origin), repeats, length)
    for fold in range(int(folds.max()) + 1):
        fitted = _fit(kinds, normals.errors[folds != fold])
        normal[folds == fold] = _fuse(fitted, weights, normals.errors[folds == fold])
        if normals.corrupted is not None and corrupted is not None:
            rows = copy_folds == fold
            corrupted[rows] = _fuse(fitted, weights, normals.corrupted[rows])
    return _HeldOut(normal, corrupted)


def _try(kinds: tuple[str, ...], reduction: Reduction, scores: _HeldOut, grid: Grid) -> Candidate:
    if scores.corrupted is None:
        return Candidate(kinds, reduction, None)
    both = torch.cat([scores.normal, scores.corrupted])
    image = reduction(both.mean(dim=1), grid).numpy()
    label = np.arange(len(image)) >= len(scores.normal)
    return Candidate(kinds, reduction, float(roc_auc_score(label, image)))


def _choose(tried: Sequence[tuple[Candidate, _HeldOut]]) -> tuple[Candidate, _HeldOut]:
    """Take the default unless another candidate beats it by the margin."""
    default = tried[0]
    best = max(tried, key=lambda pair: pair[0].synthetic_auroc or 0.0)
    gain = (best[0].synthetic_auroc or 0.0) - (default[0].synthetic_auroc or 0.0)
    return best if gain > _MARGIN else default
