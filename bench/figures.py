"""What every method of the benchmark is measured by: scores and maps in, one row of figures out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.stats import binomtest

from anomaly.conformal import Conformal
from anomaly.heatmap import crop_to_image
from anomaly.metrics import image_metrics, pixel_metrics, reachable_recall
from anomaly.types import FloatArray, Placement
from training.data import Sample, read_mask
from training.evaluate import canvas_mask

RATES = (0.01, 0.05)  # stated false-alarm rates
_FALSE_PEAKS = 1.0  # false peaks per image that the boxes' recall allows
_NEAR_PX = 8.0  # a peak this close to a box lies in it; in the image's own pixels


@dataclass(slots=True)
class Outcome:
    """One trained method on one test split: raw image scores and canvas maps, in sample order.

    `normal` are the scores of held-out normal images by group; they alone set thresholds.
    """

    normal: Conformal
    scores: np.ndarray
    maps: list[FloatArray]
    placements: list[Placement]
    costs: dict[str, float] = field(default_factory=dict)


def figures(outcome: Outcome, test: Sequence[Sample]) -> dict[str, Any]:
    """Image and pixel figures, boxes where there are some, and false alarms at stated rates."""
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
    """Recall of boxes where peaks of the map, strongest first, make one false peak per image."""
    truth = [read_boxes(sample) for sample in test]
    if not any(len(boxes) for boxes in truth):
        return {}
    strengths: list[float] = []
    hits: list[tuple[int, int] | None] = []  # image and box, or None for a false peak
    for index, (anomaly_map, placement) in enumerate(
        zip(outcome.maps, outcome.placements, strict=True)
    ):
        for strength, x, y in peaks(anomaly_map, placement):
            strengths.append(strength)
            box = _box_at(truth[index], x, y)
            hits.append(None if box is None else (index, box))
    order = np.argsort(strengths)[::-1]
    allowed, false, reached = _FALSE_PEAKS * len(test), 0, set()
    for i in order:
        hit = hits[int(i)]
        if hit is not None:
            reached.add(hit)
            continue
        false += 1
        if false > allowed:
            break
    return {"box_recall": len(reached) / sum(len(boxes) for boxes in truth)}


def peaks(
    anomaly_map: FloatArray, placement: Placement, side: int = 17
) -> list[tuple[float, float, float]]:
    """Local maxima of a canvas map: strength and place (x, y) in the image's own pixels."""
    highest = (anomaly_map == maximum_filter(anomaly_map, size=side)) & (
        anomaly_map > np.median(anomaly_map)
    )
    peaks_found = []
    for row, col in zip(*np.nonzero(highest), strict=True):
        y, x = placement.to_source(row + 0.5, col + 0.5)
        peaks_found.append((float(anomaly_map[row, col]), x, y))
    return peaks_found


def read_boxes(sample: Sample) -> np.ndarray:
    """Read (N, 4) boxes x1, y1, x2, y2 of a sample from `boxes/<kind>/<stem>.txt`."""
    path = _boxes_file(sample.path)
    if not path.is_file():
        return np.zeros((0, 4))
    rows = [line.split()[:4] for line in path.read_text().splitlines() if line.strip()]
    return np.array(rows, dtype=float).reshape(-1, 4)


def _boxes_file(image: Path) -> Path:
    return image.parents[2] / "boxes" / image.parent.name / f"{image.stem}.txt"


def _box_at(boxes: np.ndarray, x: float, y: float) -> int | None:
    if not len(boxes):
        return None
    x1, y1, x2, y2 = boxes.T
    inside = (
        (x >= x1 - _NEAR_PX) & (x <= x2 + _NEAR_PX) & (y >= y1 - _NEAR_PX) & (y <= y2 + _NEAR_PX)
    )
    return int(np.argmax(inside)) if inside.any() else None
