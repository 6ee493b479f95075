"""A calibrated model on a test split: figures as JSON, and a report that shows what they mean."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.heatmap import crop_to_image
from anomaly.metrics import image_metrics, pixel_metrics, reachable_recall
from anomaly.tradeoff import trade_offs
from anomaly.types import Detection, Placement
from training.checkpoint import write_whole
from training.data import Sample, read_mask
from training.decoding import STRICT, Decoding
from training.errors import DataError
from training.progress import SHOWN, Progress
from training.report import ReportPicture, keep_extremes
from training.truth import check_mask_sizes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one test split; `figures` is what goes to JSON."""

    figures: dict[str, Any]
    scores: np.ndarray
    labels: tuple[str, ...]
    pictures: tuple[ReportPicture, ...] = ()


@dataclass(slots=True)
class _Tally:
    """What is gathered image by image; maps are kept at canvas resolution only."""

    samples: list[Sample] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    pictures: list[ReportPicture] = field(default_factory=list)
    seconds: float = 0.0


def evaluate(
    bundle: Bundle,
    detector: Detector,
    samples: Sequence[Sample],
    *,
    decoding: Decoding = STRICT,
    progress: Progress = SHOWN,
) -> Evaluation:
    """Score a test split and compute its figures.

    Pixel figures are computed on the image's part of the model's canvas, over normal images and
    those with a mask: `pixel_images` are so many, and `pixel_images_without_mask` are left out.
    Raises `DataError` when there is nothing to tell apart.
    """
    check_test(samples)
    tally = _tally(detector, samples, decoding=decoding, progress=progress)
    scores = np.array([d.pred_score for d in tally.detections])
    labels = tuple(sample.label for sample in tally.samples)
    anomalous = np.array([not sample.is_normal for sample in tally.samples])
    _need_both(anomalous)
    figures: dict[str, Any] = {
        "model": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "images": len(scores),
        **image_metrics(anomalous, scores).as_dict(),
        **_pixel_figures(tally),
        **_decision_figures(detector, scores, anomalous),
        "kinds": _kinds(tally, scores, detector.calibration.threshold),
        # Of synthetic defects alone: nobody chooses a threshold by the test set.
        "trade_offs": [asdict(point) for point in trade_offs(detector.calibration)],
        "ms_per_image": round(1000 * tally.seconds / len(scores), 2),
        "plan": bundle.card.get("training", {}).get("plan"),
    }
    return Evaluation(figures, scores, labels, tuple(tally.pictures))


def check_test(samples: Sequence[Sample]) -> None:
    """Raise `DataError` where a test split cannot give figures: before the work, not after it."""
    if not samples:
        raise DataError("no test images; want test/good and test/<kind of defect>")
    _need_both(np.array([not sample.is_normal for sample in samples]))
    check_mask_sizes(samples)


def _need_both(anomalous: np.ndarray) -> None:
    if anomalous.all() or not anomalous.any():
        what = "anomalous" if anomalous.all() else "normal"
        raise DataError(
            "the test split needs both normal (test/good) and anomalous images (test/<kind of "
            f"defect>); all {len(anomalous)} are {what}"
        )


def _tally(
    detector: Detector, samples: Sequence[Sample], *, decoding: Decoding, progress: Progress
) -> _Tally:
    tally = _Tally()
    with progress.bar("evaluation", total=len(samples), unit="image") as bar:
        side = detector.model.config.preprocess.canvas
        for batch in decoding.on(side).batches(samples):
            started = time.perf_counter()
            detections = detector.detect([image for _, image in batch])
            tally.seconds += time.perf_counter() - started
            for (sample, image), detection in zip(batch, detections, strict=True):
                tally.samples.append(sample)
                tally.detections.append(detection)
                mask = read_mask(sample, image.source_size)
                tally.masks.append(canvas_mask(mask, detection.placement))
                tally.pictures = keep_extremes(
                    tally.pictures, ReportPicture(sample, image, detection)
                )
            bar.update(len(batch))
    return tally


def canvas_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Ground truth at the map's resolution: a canvas pixel is a defect when most of it is."""
    top, left, bottom, right = placement.box
    share = cv2.resize(
        mask.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_AREA
    )
    small: np.ndarray = share >= 0.5
    return small if small.any() or not mask.any() else share > 0  # a tiny defect stays a defect


def _pixel_figures(tally: _Tally) -> dict[str, float]:
    """Figures of pixels and of how many images they are; only how many lack a mask where all do."""
    with_truth = [
        (mask, crop_to_image(detection.anomaly_map, detection.placement))
        for sample, detection, mask in zip(
            tally.samples, tally.detections, tally.masks, strict=True
        )
        if sample.is_normal or sample.mask is not None
    ]
    masks, maps = [mask for mask, _ in with_truth], [anomaly_map for _, anomaly_map in with_truth]
    without = len(tally.samples) - len(masks)
    if not any(mask.any() for mask in masks):
        return {"pixel_images": 0, "pixel_images_without_mask": without}
    counts = {"pixel_images": len(masks), "pixel_images_without_mask": without}
    return counts | pixel_metrics(masks, maps).as_dict()


def _decision_figures(
    detector: Detector, scores: np.ndarray, anomalous: np.ndarray
) -> dict[str, Any]:
    calibration = detector.calibration
    rejected = scores > calibration.threshold
    at_five = scores > calibration.images.threshold(0.05)
    return {
        "threshold": calibration.threshold,
        "threshold_mode": calibration.mode,
        "stated_false_alarm_rate": calibration.false_alarm_rate,
        "smallest_certified_rate": calibration.images.smallest_rate,
        "realised_false_alarm_rate": float(rejected[~anomalous].mean()),
        "recall": float(rejected[anomalous].mean()),
        "realised_false_alarm_rate_at_5_percent": float(at_five[~anomalous].mean()),
        "recall_at_5_percent": float(at_five[anomalous].mean()),
        "reachable_recall_at_5_percent": reachable_recall(anomalous, scores),
    }


def _kinds(tally: _Tally, scores: np.ndarray, threshold: float) -> dict[str, dict[str, float]]:
    """Figures of each kind of defect against the normal images."""
    labels = np.array([sample.label for sample in tally.samples])
    normal = labels == "good"
    kinds: dict[str, dict[str, float]] = {}
    for kind in sorted(set(labels[~normal].tolist())):
        member = labels == kind
        compared = member | normal
        kinds[kind] = {
            "images": int(member.sum()),
            "image_AUROC": image_metrics(member[compared], scores[compared]).image_AUROC,
            "recall": float((scores[member] > threshold).mean()),
        }
    return kinds


def format_table(figures: dict[str, Any]) -> str:
    """Lay the figures out for a terminal."""
    lines = [f"{'kind':<20}{'images':>8}{'AUROC':>9}{'recall':>9}"]
    for kind, row in figures["kinds"].items():
        lines.append(f"{kind:<20}{row['images']:>8}{row['image_AUROC']:>9.3f}{row['recall']:>9.3f}")
    lines.append("")
    scored = ("image_", "pixel_A", "pixel_F")
    names = [name for name in figures if name.startswith(scored)]
    lines += [f"{name:<36}{figures[name]:>9.3f}" for name in names]
    lines.append(f"{'images that pixel figures are of':<36}{figures['pixel_images']:>9}")
    if without := figures["pixel_images_without_mask"]:
        lines.append(f"{'defective images without a mask':<36}{without:>9}")
    stated, realised = figures["stated_false_alarm_rate"], figures["realised_false_alarm_rate"]
    lines.append(f"{'false alarms, stated':<36}{stated:>9.3f}")
    lines.append(f"{'false alarms, on test/good':<36}{realised:>9.3f}")
    lines.append(f"{'recall at that threshold':<36}{figures['recall']:>9.3f}")
    lines.append(f"{'milliseconds per image':<36}{figures['ms_per_image']:>9.1f}")
    return "\n".join(lines)


def are_figures(ends: bytes) -> bool:
    """Whether a file that begins so holds an evaluation's figures."""
    return ends.startswith(b"{") and b'"image_AUROC"' in ends


def save_figures(figures: dict[str, Any], path: Path) -> None:
    """Write the figures as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(figures, indent=2) + "\n").encode())
