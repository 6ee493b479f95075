"""Normal images to a calibration.

Scores of the calibration images are taken out of fold: an image never helps to normalise itself.
What differs from product to product (the weight of each kind of evidence, the normalisers, the
smoothing, the image score) is chosen here from normals and synthetic defects, never from real ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from anomaly.calibration import (
    DEFAULT_SETTINGS,
    MAP_SMOOTHINGS,
    Calibration,
    CalibrationSettings,
    Candidate,
    Rates,
    ReferenceStatistics,
    embedding_of,
    fuse,
)
from anomaly.conformal import (
    Conformal,
    group_weights,
    left_out_rate,
    share_above,
    usual_rate,
)
from anomaly.encoding import Encodings
from anomaly.errors import CalibrationError
from anomaly.image_score import Reduction
from anomaly.input_statistics import STATISTICS
from anomaly.metrics import partial_auroc
from anomaly.normal_set import NormalSet, folds_of
from anomaly.normalise import NORMALISERS, Normaliser, UniformNormaliser
from anomaly.scoring import Evidence
from anomaly.tail import Tail
from anomaly.types import FloatArray

_FOLDS = 5


# The first of each is the default. Another one must beat it beyond doubt, because synthetic defects
# predict real ones too poorly to be followed blindly (docs/LOG.md).
NORMALISER_SETS: tuple[tuple[str, ...], ...] = (
    ("uniform",),
    ("uniform", "position"),
    ("position",),
)
REDUCTIONS = (
    Reduction(0.5, 0.01),
    Reduction(0.5, 0.0),
    Reduction(0.0, 0.002),
    Reduction(0.0, 0.0),
    Reduction(0.8, 0.02),
    Reduction(0.8, 0.1),
)
_RESAMPLES = 200  # of the groups, to see whether one candidate beats another
_SPREADS = 2.0  # of the resampled gain: so far must another candidate be ahead
_LEAST_POWER = 0.01  # evidence that tells nothing keeps this much
_LABELLED = "labelled"
_LABELLED_SHARES = (0.125, 0.0625, 0.03)  # of the weight; the largest that is harmless
_LABELS_MAY_COST = 0.005  # of the AUROC on corrupted copies


def calibrate(normals: NormalSet, settings: CalibrationSettings = DEFAULT_SETTINGS) -> Calibration:
    """Fit a calibration on normal images; synthetic defects, if any, choose how to score.

    `normals.roi_mask` must be the cells that `settings.roi` leaves. Raises `CalibrationError` with
    fewer than two independent groups.
    """
    folds = _folds(normals.groups)
    weights = weigh(normals)
    held_out = [_out_of_fold(normals, kinds, weights, folds) for kinds in NORMALISER_SETS]
    tried = [
        _try(kinds, reduction, held_scores, normals)
        for kinds, held_scores in zip(NORMALISER_SETS, held_out, strict=True)
        for reduction in REDUCTIONS
    ]
    best, scores = _choose(tried, normals)
    rule = _ScoringRule(best.normalisers, weights, best.reduction, _map_smoothing(normals, scores))
    calibration = _fitted(normals, scores, rule, settings)
    return replace(calibration, candidates=tuple(trial.candidate for trial in tried))


def recalibrate(
    previous: Calibration, normals: NormalSet, settings: CalibrationSettings
) -> Calibration:
    """Refit normalisers and thresholds on other normal images; the chosen way to score stays.

    No synthetic defects are needed: what they choose depends on the product, not on last week's
    light. Raises `CalibrationError` with fewer than two independent groups.
    """
    kinds = tuple(normaliser.kind for normaliser in previous.normalisers)
    rule = _ScoringRule(kinds, previous.weights, previous.reduction, previous.map_smoothing)
    scores = _out_of_fold(normals, kinds, rule.weights, _folds(normals.groups))
    calibration = _fitted(normals, scores, rule, settings)
    return replace(calibration, candidates=previous.candidates)


@dataclass(frozen=True, slots=True)
class _ScoringRule:
    """How evidence becomes scores."""

    kinds: tuple[str, ...]
    weights: torch.Tensor
    reduction: Reduction
    map_smoothing: float


def _fitted(
    normals: NormalSet, held_out: "_HeldOut", rule: _ScoringRule, settings: CalibrationSettings
) -> Calibration:
    """Fit on all images; thresholds follow from scores (N, R, L) taken out of fold."""
    grid, groups, roi_mask = normals.grid, normals.groups, normals.roi_mask
    normal = held_out.normal.mean(dim=1)  # (N, L)
    maps = Reduction(rule.map_smoothing, 0.0)
    images = rule.reduction(normal, grid, roi_mask).numpy()
    normalisers = _fit(rule.kinds, normals.evidence, roi_mask)
    conformal = Conformal.fit(images, groups)
    rate = settings.false_alarm_rate
    own_scores = fuse(normalisers, rule.weights, normals.evidence).mean(dim=1)
    seen = rule.reduction(own_scores, grid, roi_mask).numpy()
    calibration = Calibration(
        normalisers=normalisers,
        weights=rule.weights,
        reduction=rule.reduction,
        images=conformal,
        peaks=Conformal.fit(maps(normal, grid, roi_mask).numpy(), groups),
        false_alarm_rate=usual_rate(conformal.groups) if rate is None else rate,
        map_smoothing=rule.map_smoothing,
        warn_rate=settings.warn_rate,
        roi=settings.roi,
        reference=_reference(normals, normalisers[0]),
        encodings=Encodings.of(normals.encodings) if normals.encodings else None,
        given=settings.threshold,
        synthetic=_synthetic_scores(normals, held_out.corrupted, rule),
        fold_models=normals.fold_models,
        odd=_odd_groups(images, groups),
    )
    rates = Rates(
        share_above(seen, groups, calibration.threshold),
        left_out_rate(images, groups, partial(_threshold_without, calibration)),
    )
    return replace(calibration, rates=rates)


def _odd_groups(scores: np.ndarray, groups: Sequence[str]) -> tuple[str, ...]:
    """Groups with images that no good part would score like, the highest first, each once."""
    normals = Conformal.fit(scores, groups)
    highest = np.argsort(-scores, kind="stable")[: int(Tail.fit(normals).odd(normals).sum())]
    return tuple(dict.fromkeys(groups[i] for i in highest))


def _threshold_without(calibration: Calibration, rest: Conformal) -> float:
    """Return the threshold that the other groups alone would have given."""
    if calibration.given is not None:
        return calibration.given
    return calibration.threshold_of(rest, calibration.false_alarm_rate)


def _synthetic_scores(
    normals: NormalSet, copies: torch.Tensor | None, rule: _ScoringRule
) -> FloatArray | None:
    """Image scores of the copies whose defect can be seen, sorted; None without copies."""
    if copies is None:
        return None
    seen, roi_mask = normals.seen_copies, normals.copies_roi_mask
    masks = None if roi_mask is None else roi_mask[seen]
    scores: FloatArray = rule.reduction(copies.mean(dim=1)[seen], normals.grid, masks).numpy()
    return np.sort(scores)


def _reference(normals: NormalSet, normaliser: Normaliser) -> ReferenceStatistics | None:
    if normals.inputs is None:
        return None
    names, columns = STATISTICS, [normals.inputs]
    embedding = embedding_of(normaliser, normals.evidence)
    if embedding is not None:
        names, columns = (*names, "embedding"), [*columns, embedding.numpy()[:, None]]
    values = np.concatenate(columns, axis=1).astype(np.float32)
    return ReferenceStatistics(names, values, group_weights(normals.groups))


def weigh(normals: NormalSet) -> torch.Tensor:
    """Return the weight of each kind of evidence, (E,).

    Each family has an equal say: its map is brought to unit spread on the normals. Within a family,
    a kind counts by how well it alone tells corrupted copies from normals (its AUROC above chance);
    without copies, all count the same. So a fine stage leads where defects are small, a coarse one
    where they are large. What was labelled has a say of its own beside them: see `_mixed`.
    """
    normaliser = UniformNormaliser.fit(normals.evidence.mean, normals.roi_mask)
    scores = normaliser(normals.evidence.values).mean(dim=1)  # (N, E, L)
    copies = None if normals.corrupted is None else normaliser(normals.corrupted.values).mean(dim=1)
    families = [name.partition(".")[0] for name in normals.evidence.names]
    power = torch.tensor([_power(i, scores, copies, normals) for i in range(len(families))])
    equal_say = {family: torch.zeros(len(families)) for family in families}
    for family, weights in equal_say.items():
        members = torch.tensor([name == family for name in families])
        share = power[members] / power[members].sum()
        fused = torch.einsum("nel,e->nl", scores[:, members], share)
        spread = (fused if normals.roi_mask is None else fused[normals.roi_mask]).std()
        weights[members] = share / spread.clamp(min=1e-6)
    labelled = equal_say.pop(_LABELLED, None) if len(equal_say) > 1 else None
    unlabelled = torch.stack(list(equal_say.values())).mean(dim=0)
    return (
        unlabelled if labelled is None else _mixed(unlabelled, labelled, (scores, copies), normals)
    )


def _mixed(
    unlabelled: torch.Tensor,
    labelled: torch.Tensor,
    scores: tuple[torch.Tensor, torch.Tensor | None],
    of: NormalSet,
) -> torch.Tensor:
    """Weigh what was labelled as much as blinds nobody, (E,).

    Corrupted copies resemble nothing that anybody labelled. So they stand for the kinds of defect
    that nobody has seen yet: with the labels they must be told from normals as well as without, by
    whatever image score. Where no share of the labels leaves them so, the labels say nothing.
    `unlabelled` and `labelled` (E,) are weights of maps of unit spread; `scores` those of the
    normals and of the copies by kind, (N, E, L).
    """
    normal, copies = scores
    if copies is None:
        return (1 - _LABELLED_SHARES[1]) * unlabelled + _LABELLED_SHARES[1] * labelled

    def auroc(weights: torch.Tensor) -> np.ndarray:
        fused = [torch.einsum("nel,e->nl", x, weights) for x in (normal, copies)]
        scored = of.with_copies(*fused)
        images = [r(scored, of.grid, of.roi_mask_with_copies).numpy() for r in REDUCTIONS]
        return np.array([_synthetic_auroc(image, of) for image in images])

    alone = auroc(unlabelled)
    for share in _LABELLED_SHARES:
        weights = (1 - share) * unlabelled + share * labelled
        if (auroc(weights) >= alone - _LABELS_MAY_COST).all():
            return weights
    return unlabelled


def _map_smoothing(normals: NormalSet, scores: "_HeldOut") -> float:
    """Choose the smoothing whose maps find altered cells best: fine defects need little of it."""
    altered, roi_mask = normals.altered, normals.copies_roi_mask
    if scores.corrupted is None or altered is None:
        return MAP_SMOOTHINGS[0]
    cells = torch.ones_like(altered) if roi_mask is None else roi_mask
    label = altered[cells].numpy()
    if label.all() or not label.any():
        return MAP_SMOOTHINGS[0]
    copies = scores.corrupted.mean(dim=1)

    def overlap(smoothing: float) -> float:
        maps = Reduction(smoothing).smooth(copies, normals.grid, roi_mask)
        return float(roc_auc_score(label, maps[cells].numpy()))

    return max(MAP_SMOOTHINGS, key=overlap)


def _power(kind: int, scores: torch.Tensor, copies: torch.Tensor | None, of: NormalSet) -> float:
    if copies is None:
        return 1.0
    scored = of.with_copies(scores[:, kind], copies[:, kind])
    image = REDUCTIONS[0](scored, of.grid, of.roi_mask_with_copies).numpy()
    return max(_synthetic_auroc(image, of) - 0.5, _LEAST_POWER)


def _synthetic_auroc(image: np.ndarray, of: NormalSet) -> float:
    """AUROC of image scores of `NormalSet.with_copies`: how well copies are told from normals."""
    label = of.is_copy(image)
    return float(roc_auc_score(label, image)) if label.any() else 0.5


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Out-of-fold scores: normals (N, R, L) and corrupted copies (M, R, L), not yet smoothed."""

    normal: torch.Tensor
    corrupted: torch.Tensor | None


def _fit(
    kinds: Sequence[str], evidence: Evidence, roi_mask: torch.Tensor | None
) -> tuple[Normaliser, ...]:
    return tuple(NORMALISERS[kind].fit(evidence.mean, roi_mask) for kind in kinds)


def _folds(groups: Sequence[str]) -> torch.Tensor:
    """Assign every image a fold, whole groups together: (N,) int64."""
    count = len(set(groups))
    if count < 2:
        raise CalibrationError(
            f"calibration needs normal images of at least 2 independent parts or sessions, found "
            f"{count}; collect more, a few dozen at the least"
        )
    return torch.from_numpy(folds_of(groups, min(_FOLDS, count)))


def _out_of_fold(
    normals: NormalSet, kinds: Sequence[str], weights: torch.Tensor, folds: torch.Tensor
) -> _HeldOut:
    """Score every image with normalisers that were fitted without its fold."""
    batch, repeats, _, length = normals.evidence.values.shape
    normal = torch.zeros(batch, repeats, length)
    corrupted, copy_folds = None, folds[list(normals.origin)]
    if normals.corrupted is not None:
        corrupted = torch.zeros(len(normals.origin), repeats, length)
    for fold in range(int(folds.max()) + 1):
        outside = folds != fold
        fitted = _fit(kinds, normals.evidence[outside], normals.roi_masks(outside))
        normal[folds == fold] = fuse(fitted, weights, normals.evidence[folds == fold])
        if normals.corrupted is not None and corrupted is not None:
            rows = copy_folds == fold
            corrupted[rows] = fuse(fitted, weights, normals.corrupted[rows])
    return _HeldOut(normal, corrupted)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A candidate, the held-out scores it rests on, and its image scores with those of copies."""

    candidate: Candidate
    scores: _HeldOut
    images: np.ndarray


def _try(kinds: tuple[str, ...], reduction: Reduction, scores: _HeldOut, of: NormalSet) -> _Trial:
    if scores.corrupted is None:
        return _Trial(Candidate(kinds, reduction, None), scores, np.zeros(0))
    scored = of.with_copies(scores.normal.mean(dim=1), scores.corrupted.mean(dim=1))
    images = reduction(scored, of.grid, of.roi_mask_with_copies).numpy()
    return _Trial(Candidate(kinds, reduction, _synthetic_auroc(images, of)), scores, images)


def _choose(tried: Sequence[_Trial], of: NormalSet) -> tuple[Candidate, _HeldOut]:
    """Take the default unless another candidate beats it beyond doubt.

    What counts is how many copies score above nearly all normal images: a threshold lies there.
    """
    default = tried[0]
    best = default
    if default.candidate.synthetic_auroc is not None and of.is_copy(default.images).any():
        best = max(tried, key=lambda trial: partial_auroc(of.is_copy(trial.images), trial.images))
        if not _beats(best.images, default.images, of):
            best = default
    return best.candidate, best.scores


def _beats(one: np.ndarray, other: np.ndarray, of: NormalSet) -> bool:
    """Whether scores tell copies from normals better, however the groups are drawn (bootstrap)."""
    is_copy = of.is_copy(one)
    group_of = np.unique(np.asarray(of.groups), return_inverse=True)[1]
    origins = np.asarray(of.origin, np.int64)[of.seen_copies.numpy()]
    member = np.concatenate([group_of, group_of[origins]])
    rows = [np.flatnonzero(member == group) for group in range(int(member.max()) + 1)]
    generator = np.random.default_rng(0)
    gains = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rows[i] for i in generator.integers(len(rows), size=len(rows))])
        if is_copy[drawn].any():
            first, second = (partial_auroc(is_copy[drawn], s[drawn]) for s in (one, other))
            gains.append(first - second)
    return bool(np.mean(gains) > _SPREADS * np.std(gains))
