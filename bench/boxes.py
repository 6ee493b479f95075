"""Boxes of defects, and whether a method's peaks and the regions that it would report lie there.

Regions of all methods are drawn by the code that serves, at a level that the method's held-out
normals set. What Maskline shows of a rejected part where nothing passes that level is left out: it
depends on where the scale of a map begins, and peers' scales begin anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import maximum_filter
from torchvision.ops import box_iou

from anomaly.heatmap import find_regions
from anomaly.types import FloatArray, Placement, Region
from training.data import Sample, read_mask

_FALSE_PEAKS = 1.0  # false peaks per image that the peaks' recall allows
_NEAR_PX = 8.0  # a peak this close to a box lies in it; in the image's own pixels


@dataclass(frozen=True, slots=True)
class Inspected:
    """A test image whose defects are known, and what a method says of it: its canvas map.

    `boxes` (N, 4) are x1, y1, x2, y2 of the defects in the image's own pixels, none where it is
    normal. `coarse` is the map before it was sharpened, if it was.
    """

    anomaly_map: FloatArray
    placement: Placement
    is_rejected: bool
    boxes: np.ndarray
    coarse: FloatArray | None = None


def box_figures(images: Sequence[Inspected], level: float) -> dict[str, float]:
    """Figures of defects' boxes, each in [0, 1]; nothing where no defect has one.

    Regions are reported of rejected images, where the map exceeds `level`. `box_recall` is of peaks
    of the map, whatever is rejected; see `_peak_recall`.
    """
    if not any(len(image.boxes) for image in images):
        return {}
    return {"box_recall": _peak_recall(images)} | _reported(images, level)


def _reported(images: Sequence[Inspected], level: float) -> dict[str, float]:
    """Compare reported regions with defects' boxes.

    `region_iou` is the intersection over union of a defect's box and the box of the region that
    fits it best, averaged over defects (0 where none is reported). `box_precision` is the share of
    regions whose peak lies in a defect's box, `box_recall_reported` the share of boxes in which a
    region's peak lies. Precision is left out where nothing is reported.
    """
    overlaps: list[float] = []
    reported, hits, reached = 0, 0, 0
    for image in images:
        regions: tuple[Region, ...] = ()
        if image.is_rejected:
            regions = find_regions(image.anomaly_map, image.placement, level, image.coarse)
        overlaps += _best_overlaps(image.boxes, regions)
        boxes_hit = [_box_at(image.boxes, *region.peak) for region in regions]
        reported += len(regions)
        hits += sum(box is not None for box in boxes_hit)
        reached += len({box for box in boxes_hit if box is not None})
    figures = {
        "region_iou": float(np.mean(overlaps)),
        "box_recall_reported": reached / len(overlaps),
    }
    return figures | ({"box_precision": hits / reported} if reported else {})


def _best_overlaps(boxes: np.ndarray, regions: Sequence[Region]) -> list[float]:
    """Intersection over union of each of N boxes with the region that fits it best."""
    corners = [(x, y, x + width, y + height) for x, y, width, height in (r.bbox for r in regions)]
    drawn = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
    best: list[float] = (
        box_iou(torch.from_numpy(boxes), drawn).numpy().max(axis=1, initial=0.0).tolist()
    )
    return best


def _peak_recall(images: Sequence[Inspected]) -> float:
    """Recall of boxes where peaks of the map, strongest first, make one false peak per image."""
    strengths: list[float] = []
    hits: list[tuple[int, int] | None] = []  # image and box, or None for a false peak
    for index, image in enumerate(images):
        for strength, x, y in peaks(image.anomaly_map, image.placement):
            strengths.append(strength)
            box = _box_at(image.boxes, x, y)
            hits.append(None if box is None else (index, box))
    order = np.argsort(strengths)[::-1]
    allowed, false, reached = _FALSE_PEAKS * len(images), 0, set()
    for i in order:
        hit = hits[int(i)]
        if hit is not None:
            reached.add(hit)
            continue
        false += 1
        if false > allowed:
            break
    return len(reached) / sum(len(image.boxes) for image in images)


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


def true_boxes(sample: Sample, size: tuple[int, int]) -> np.ndarray | None:
    """Return (N, 4) boxes of the defects in an image of (H, W); None where they are not known.

    Those of its boxes file, or of the connected defects (8 neighbours) of its mask.
    """
    boxes = read_boxes(sample)
    if sample.is_normal or len(boxes):
        return boxes
    if sample.mask is None:
        return None
    mask = read_mask(sample, size).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    x, y, width, height = stats[1:, :4].T
    return np.stack([x, y, x + width, y + height], axis=1).astype(float)


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
