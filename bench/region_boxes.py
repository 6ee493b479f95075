"""What a model of anomalies says of an image, as boxes: its regions, named by a head of kinds.

Regions are those that the service draws, wherever the map passes its own threshold, whatever the
verdict, with the descriptions and the head that name them in the service (`anomaly.kinds`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from anomaly.bundle import Bundle
from anomaly.detector import Detector, judge
from anomaly.kinds import Examples, fit_kinds
from anomaly.types import Region
from training.boxes import ANY_KIND, Boxes
from training.samples import Sample

_OVERLAP = 0.1  # from which a region is taken to be of a labelled box's kind


@dataclass(frozen=True, slots=True)
class Described:
    """The regions of one image and their descriptions (N, D)."""

    regions: tuple[Region, ...]
    embeddings: NDArray[np.float32]

    def boxes(self, kinds: Sequence[str] | None = None) -> Boxes:
        """Return the regions as boxes, the higher their peak the surer."""
        corners = [(x, y, x + w, y + h) for x, y, w, h in (r.bbox for r in self.regions)]
        peaks = np.array([max(r.peak_score, 0.0) for r in self.regions], np.float64)
        named = (ANY_KIND,) * len(self.regions) if kinds is None else tuple(kinds)
        array = np.array(corners, np.float64).reshape(-1, 4)
        return Boxes(array, named, peaks / (1 + peaks))


def describe(bundle: Bundle, samples: Sequence[Sample]) -> list[Described]:
    """Look at images one by one; raises what decoding does."""
    detector = Detector(bundle.model, bundle.calibration_of(None))
    return [_described(detector, sample) for sample in samples]


def _described(detector: Detector, sample: Sample) -> Described:
    [detection] = detector.detect([sample.path.read_bytes()])
    rejected = judge(detection, detection.pred_score - 1, detection.map_threshold)
    vectors = detector.describe(rejected)
    assert vectors is not None
    return Described(rejected.regions, vectors)


def named(
    labelled: Sequence[Described], truths: Sequence[Boxes], described: Sequence[Described]
) -> list[Boxes]:
    """Learn from the regions that lie on labelled boxes, and name the regions of others.

    By their likeliest kind: whether it is like any at all is another question than the boxes'.
    With nothing to learn from, all are of any kind.
    """
    embeddings: list[NDArray[Any]] = []
    kinds: list[str] = []
    parts: list[str] = []
    for index, (item, truth) in enumerate(zip(labelled, truths, strict=True)):
        for row, kind in _kinds_of(item, truth):
            embeddings.append(item.embeddings[row])
            kinds.append(kind)
            parts.append(str(index))
    if not kinds:
        return [item.boxes() for item in described]
    head = fit_kinds(Examples(np.stack(embeddings), tuple(kinds), tuple(parts)))
    return [item.boxes(head.likeliest(item.embeddings)) for item in described]


def _kinds_of(item: Described, truth: Boxes) -> list[tuple[int, str]]:
    """Pair regions with the kind of the labelled box that they overlap best, where they do."""
    if not item.regions or not len(truth):
        return []
    overlaps = box_iou(torch.from_numpy(item.boxes().corners), torch.from_numpy(truth.corners))
    best, places = overlaps.max(dim=1)
    return [
        (row, truth.kinds[int(places[row])])
        for row in range(len(item.regions))
        if float(best[row]) >= _OVERLAP
    ]
