"""What a model of anomalies says of an image, as boxes: its regions, named by a head of kinds.

Regions are those that the service draws, wherever the map passes its own threshold, whatever the
verdict. A region's description is what differs there from the autoencoder's prediction: the mean
of token minus prediction, weighted by the map's squared excess, of unit length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torchvision.ops import box_iou

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.heatmap import find_regions, region_level
from anomaly.image import decode_image
from anomaly.preprocess import content_seed, preprocess
from anomaly.types import Detection, Region
from training.boxes import ANY_KIND, Boxes
from training.samples import Sample

_OVERLAP = 0.1  # from which a region is taken to be of a labelled box's kind


class Kinds(Protocol):
    """A head of kinds: fitted on descriptions, it names others and says how sure it is."""

    @classmethod
    def fit(cls, embeddings: NDArray[Any], kinds: Sequence[str], groups: Sequence[str]) -> Self:
        """Learn from N descriptions (N, D) with their kinds; what shares a group is one part."""

    def predict(self, embeddings: NDArray[Any]) -> tuple[Sequence[str], NDArray[Any]]:
        """Name (N, D) descriptions and say (N,) probabilities."""


@dataclass(frozen=True, slots=True)
class LogisticKinds:
    """Logistic regression on unit vectors, C .1: the plainest head that `Kinds` describes."""

    model: LogisticRegression

    @classmethod
    def fit(
        cls, embeddings: NDArray[Any], kinds: Sequence[str], groups: Sequence[str]
    ) -> "LogisticKinds":
        """Learn; whose part a description is of plays no role here."""
        balanced = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        return cls(balanced.fit(embeddings * np.sqrt(embeddings.shape[1]) / 8, list(kinds)))

    def predict(self, embeddings: NDArray[Any]) -> tuple[Sequence[str], NDArray[Any]]:
        """Name the likeliest kind."""
        scaled = embeddings * np.sqrt(embeddings.shape[1]) / 8
        share = self.model.predict_proba(scaled)
        return self.model.classes_[share.argmax(axis=1)].tolist(), share.max(axis=1)


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
    return [_described(bundle, detector, sample) for sample in samples]


def _described(bundle: Bundle, detector: Detector, sample: Sample) -> Described:
    image = decode_image(sample.path.read_bytes())
    [detection] = detector.detect([image])
    level = region_level(detection.anomaly_map, detection.map_threshold)
    regions = find_regions(detection.anomaly_map, detection.placement, level)
    if not regions:
        return Described((), np.zeros((0, bundle.model.target.token_dim), np.float32))
    pixels, _ = preprocess([image], bundle.model.config.preprocess)
    with torch.inference_mode():
        tokens = bundle.model.target(pixels)
        predicted = bundle.model.predict(tokens, [content_seed(pixels[0])]).mean(dim=1)
    difference = (tokens - predicted)[0]  # (L, C)
    weights = torch.stack([_weights(bundle, detection, region, level) for region in regions])
    embeddings = F.normalize(weights @ difference, dim=1)
    return Described(regions, embeddings.numpy().astype(np.float32))


def _weights(bundle: Bundle, detection: Detection, region: Region, level: float) -> torch.Tensor:
    """Squared excess of the map over the regions' `level` within a region's box, by patch (L,)."""
    placement, grid = detection.placement, bundle.model.target.grid
    scale_y, scale_x = placement.scale
    x, y, width, height = region.bbox
    top, left = int(y / scale_y) + placement.box[0], int(x / scale_x) + placement.box[1]
    bottom, right = top + max(1, round(height / scale_y)), left + max(1, round(width / scale_x))
    excess = np.zeros_like(detection.anomaly_map)
    inside = detection.anomaly_map[top:bottom, left:right]
    excess[top:bottom, left:right] = np.maximum(inside - level, 1e-3) ** 2
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(excess)[None], (grid.rows, grid.cols))
    return pooled.flatten().float()


def named(
    head: type[Kinds],
    labelled: Sequence[Described],
    truths: Sequence[Boxes],
    described: Sequence[Described],
) -> list[Boxes]:
    """Fit a head on the regions that lie on labelled boxes, and name the regions of others.

    With fewer than two kinds to learn from, all regions are of the one there is.
    """
    embeddings: list[NDArray[Any]] = []
    kinds: list[str] = []
    groups: list[str] = []
    for index, (item, truth) in enumerate(zip(labelled, truths, strict=True)):
        for row, kind in _kinds_of(item, truth):
            embeddings.append(item.embeddings[row])
            kinds.append(kind)
            groups.append(str(index))
    if len(set(kinds)) < 2:
        return [item.boxes([*kinds, ANY_KIND][:1] * len(item.regions)) for item in described]
    fitted = head.fit(np.stack(embeddings), kinds, groups)
    return [
        item.boxes(fitted.predict(item.embeddings)[0] if item.regions else ()) for item in described
    ]


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
