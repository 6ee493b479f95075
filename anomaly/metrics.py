"""How well scores separate: arrays in, numbers out. The names are the field's (anomalib's)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomaly.errors import require_shape


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Image-level figures; each is in [0, 1]."""

    image_AUROC: float  # noqa: N815 - the field's spelling, written to JSON as it is
    image_pAUROC: float  # noqa: N815 - where at most 5 % are false alarms; .5 is chance (McClish)
    image_AP: float  # noqa: N815
    image_F1Max: float  # noqa: N815

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """Pixel-level figures; each is in [0, 1]."""

    pixel_AUROC: float  # noqa: N815
    pixel_AP: float  # noqa: N815
    pixel_F1Max: float  # noqa: N815
    pixel_AUPRO: float  # noqa: N815

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """All pixels by falling score: what a threshold at each of the K distinct scores marks.

    `defects` and `normals` (K,) count the marked pixels of both kinds, `overlap` (K,) is the mean
    share of a connected defect that is marked.
    """

    defects: np.ndarray
    normals: np.ndarray
    overlap: np.ndarray


def image_metrics(labels: np.ndarray, scores: np.ndarray) -> ImageMetrics:
    """Score-based figures of N images; `labels` is bool, True is anomalous; both must occur."""
    ok = labels.shape == scores.shape and labels.ndim == 1 and len(np.unique(labels)) == 2
    require_shape("labels", labels.shape, "(N,) holding both normal and anomalous", ok=ok)
    return ImageMetrics(
        image_AUROC=float(roc_auc_score(labels, scores)),
        image_pAUROC=partial_auroc(labels, scores),
        image_AP=float(average_precision_score(labels, scores)),
        image_F1Max=f1_max(labels, scores),
    )


def partial_auroc(labels: np.ndarray, scores: np.ndarray, false_alarms: float = 0.05) -> float:
    """AUROC where at most that share are false alarms, 1 for perfect and .5 for chance.

    What a threshold can reach depends on this part of the curve alone (McClish 1989, "Analyzing a
    Portion of the ROC Curve").
    """
    return float(roc_auc_score(labels, scores, max_fpr=false_alarms))


def reachable_recall(labels: np.ndarray, scores: np.ndarray, false_alarms: float = 0.05) -> float:
    """Recall of the best threshold that at most that share of the normal images exceeds."""
    normal = np.sort(scores[~labels])[::-1]
    allowed = int(false_alarms * len(normal) + 1e-9)
    return float((scores[labels] > normal[allowed]).mean())


def pixel_metrics(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> PixelMetrics:
    """Figures over all pixels of N images; mask and map of an image have the same (H, W).

    Pixels are sorted once for all figures: 27 million, as some test splits have, take 1.2 GB.
    """
    ranking = _rank(masks, maps)
    defects, normals = ranking.defects, ranking.normals
    every_defect, every_normal = int(defects[-1]), int(normals[-1])
    hits, alarms = np.insert(defects, 0, 0), np.insert(normals, 0, 0)
    area = np.trapezoid(hits, alarms) / every_defect / every_normal
    precision = defects / (defects + normals)
    return PixelMetrics(
        pixel_AUROC=float(area),
        pixel_AP=float(np.dot(np.diff(hits), precision) / every_defect),
        pixel_F1Max=float((2 * defects / (defects + normals + every_defect)).max()),
        pixel_AUPRO=_overlap_area(ranking, 0.3),
    )


def f1_max(labels: np.ndarray, scores: np.ndarray) -> float:
    """Largest F1 over all thresholds."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def aupro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], fpr_limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to `fpr_limit`, divided by the limit.

    Every connected defect (8 neighbours) counts the same however small (Bergmann et al. 2021, "The
    MVTec Anomaly Detection Dataset", section 4.3). Exact: each pixel's score is a threshold.
    """
    return _overlap_area(_rank(masks, maps), fpr_limit)


def _overlap_area(ranking: _Ranking, fpr_limit: float) -> float:
    fpr = np.insert(ranking.normals / ranking.normals[-1], 0, 0.0)
    pro = np.insert(ranking.overlap, 0, 0.0)
    at_limit = np.interp(fpr_limit, fpr, pro)
    below = fpr < fpr_limit
    x, y = np.append(fpr[below], fpr_limit), np.append(pro[below], at_limit)
    return float(np.trapezoid(y, x) / fpr_limit)


def _rank(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> _Ranking:
    weights, normal = _overlap_weights(masks)
    scores = np.concatenate([anomaly_map.astype(np.float32).ravel() for anomaly_map in maps])
    require_shape("masks", weights.shape, str(scores.shape), ok=weights.shape == scores.shape)
    require_shape(
        "masks", weights.shape, "both kinds of pixel", ok=bool(normal.any() and weights.any())
    )
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last_of_tie = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    normals = np.cumsum(normal[order])[last_of_tie]
    overlap = np.cumsum(weights[order])[last_of_tie]
    return _Ranking(last_of_tie + 1 - normals, normals, overlap)


def _overlap_weights(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each defect pixel's share of the mean overlap, and which pixels are normal."""
    weights, regions = [], 0
    for mask in masks:
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        areas = np.bincount(labels.ravel(), minlength=count).astype(np.float64)
        share = np.zeros(count)
        share[1:] = 1.0 / np.maximum(areas[1:], 1)
        weights.append(share[labels].ravel())
        regions += count - 1
    flat = np.concatenate(weights)
    return flat / max(regions, 1), flat == 0
