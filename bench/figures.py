"""What every method of the benchmark is measured by: scores and maps in, one row of figures out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest

from anomaly.conformal import Conformal
from anomaly.heatmap import crop_to_image
from anomaly.metrics import image_metrics, pixel_metrics, reachable_recall
from anomaly.types import FloatArray, Placement
from bench.boxes import Inspected, box_figures, true_boxes
from training.data import Sample, read_mask
from training.evaluate import canvas_mask

RATES = (0.01, 0.05)  # stated false-alarm rates
_REPORTED = 0.05  # the one by which regions are reported


@dataclass(slots=True)
class Outcome:
    """One trained method on one test split: raw image scores and canvas maps, in sample order.

    `normal` are the scores of held-out normal images by group, `peaks` the maxima of their maps;
    they alone set thresholds. `coarse` are maps before they were sharpened, where they were.
    """

    normal: Conformal
    peaks: Conformal
    scores: np.ndarray
    maps: list[FloatArray]
    placements: list[Placement]
    costs: dict[str, float] = field(default_factory=dict)
    coarse: list[FloatArray | None] | None = None


def figures(outcome: Outcome, test: Sequence[Sample]) -> dict[str, Any]:
    """Image and pixel figures, boxes where truth is known, and false alarms at stated rates."""
    anomalous = np.array([not sample.is_normal for sample in test])
    row: dict[str, Any] = image_metrics(anomalous, outcome.scores).as_dict()
    row |= _pixels(outcome, test) | _boxes(outcome, test)
    good = [sample.session for sample in test if sample.is_normal]
    for rate in RATES:
        rejected = outcome.scores > outcome.normal.threshold(rate)
        row[f"alarms_{rate:.0%}"] = float(rejected[~anomalous].mean())
        row[f"alarms_{rate:.0%}_interval"] = alarm_interval(rejected[~anomalous], good)
        row[f"recall_{rate:.0%}"] = float(rejected[anomalous].mean())
        row[f"reachable_{rate:.0%}"] = reachable_recall(anomalous, outcome.scores, rate)
    row["normal_groups"] = outcome.normal.groups
    return row | outcome.costs


def alarm_interval(rejected: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    """95 % Clopper-Pearson interval of the false-alarm rate, a group (part, session) counting once.

    A group of which a share was rejected counts by that share; the sum is rounded to whole groups.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    shares = np.bincount(member, weights=rejected) / np.bincount(member)
    interval = binomtest(round(float(shares.sum())), len(shares)).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)


def bootstrap(
    scores: np.ndarray, test: Sequence[Sample], repeats: int = 500
) -> tuple[float, float]:
    """95 % interval of the image AUROC, drawing whole sessions (parts) with replacement."""
    anomalous = np.array([not sample.is_normal for sample in test])
    names, member = np.unique([sample.session for sample in test], return_inverse=True)
    rows = [np.flatnonzero(member == group) for group in range(len(names))]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(repeats):
        resampled = np.concatenate([rows[i] for i in generator.integers(len(rows), size=len(rows))])
        if 0 < anomalous[resampled].sum() < len(resampled):
            drawn.append(image_metrics(anomalous[resampled], scores[resampled]).image_AUROC)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _pixels(outcome: Outcome, test: Sequence[Sample]) -> dict[str, float]:
    masks, maps = [], []
    for sample, anomaly_map, placement in zip(test, outcome.maps, outcome.placements, strict=True):
        if sample.is_normal or sample.mask is not None:
            masks.append(canvas_mask(read_mask(sample, placement.source), placement))
            maps.append(crop_to_image(anomaly_map, placement))
    if not any(mask.any() for mask in masks):
        return {}
    return pixel_metrics(masks, maps).as_dict()


def _boxes(outcome: Outcome, test: Sequence[Sample]) -> dict[str, float]:
    """Figures of boxes on the images whose defects are known, at the thresholds for 5 %."""
    rejected = outcome.scores > outcome.normal.threshold(_REPORTED)
    images = []
    for i, (sample, placement) in enumerate(zip(test, outcome.placements, strict=True)):
        boxes = true_boxes(sample, placement.source)
        if boxes is not None:
            coarse = None if outcome.coarse is None else outcome.coarse[i]
            images.append(Inspected(outcome.maps[i], placement, bool(rejected[i]), boxes, coarse))
    return box_figures(images, outcome.peaks.threshold(_REPORTED))
