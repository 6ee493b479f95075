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
    """Figures over all pixels of N images; mask and map of an image have the same (H, W)."""
    truth = np.concatenate([mask.astype(bool).ravel() for mask in masks])
    scores = np.concatenate([anomaly_map.astype(np.float32).ravel() for anomaly_map in maps])
    ok = truth.shape == scores.shape and len(np.unique(truth)) == 2
    require_shape("masks", truth.shape, "the maps' shapes, holding both kinds of pixel", ok=ok)
    return PixelMetrics(
        pixel_AUROC=float(roc_auc_score(truth, scores)),
        pixel_AP=float(average_precision_score(truth, scores)),
        pixel_F1Max=f1_max(truth, scores),
        pixel_AUPRO=aupro(masks, maps),
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
    weights, normal = _overlap_weights(masks)
    scores = np.concatenate([anomaly_map.astype(np.float32).ravel() for anomaly_map in maps])
    require_shape("masks", weights.shape, str(scores.shape), ok=weights.shape == scores.shape)
    require_shape(
        "masks", weights.shape, "both kinds of pixel", ok=bool(normal.any() and weights.any())
    )
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    fpr = (np.cumsum(normal[order]) / normal.sum())[last_of_tie]
    pro = np.cumsum(weights[order])[last_of_tie]
    fpr, pro = np.insert(fpr, 0, 0.0), np.insert(pro, 0, 0.0)
    at_limit = np.interp(fpr_limit, fpr, pro)
    below = fpr < fpr_limit
    x, y = np.append(fpr[below], fpr_limit), np.append(pro[below], at_limit)
    return float(np.trapezoid(y, x) / fpr_limit)


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
