"""The training half of segmentation: masks of kinds, the segmenter's losses, overlaps."""

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from anomaly.types import Placement
from supervised.network import SupervisedNetwork
from supervised.segmenter import IGNORED, Segmenter, check_classes
from supervised.types import Answer
from training.errors import DataError
from training.finetune.batch import LabelledBatch
from training.finetune.config import LossConfig
from training.samples import Sample, few_of, printable
from training.truth import read_mask


class SegmentationTraining:
    """A kind for every pixel: an image's label, where its ground truth marks it."""

    def __init__(self, loss: LossConfig) -> None:
        """Build it; what is minimised are settings of the head, which nothing of `loss` changes."""

    def classes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Name the kinds of all images with a mask, in alphabetical order."""
        bare = [printable(s.name or s.path) for s in samples if not s.is_normal and s.mask is None]
        if bare:
            raise DataError(
                f"{len(bare)} images show a defect and have no mask ({few_of(bare)}); put masks "
                "into ground_truth/<kind>/, or leave these images out"
            )
        kinds = sorted({sample.label for sample in samples if not sample.is_normal})
        if not kinds:
            raise DataError(
                f"none of {len(samples)} images has a mask; mark a few defects at least"
            )
        return tuple(kinds)

    def truth(self, sample: Sample, placement: Placement, classes: tuple[str, ...]) -> torch.Tensor:
        """Read the classes (S, S) uint8 of a sample's canvas; `IGNORED` around the image."""
        if not sample.is_normal and sample.label not in classes:
            raise DataError(
                f"{printable(sample.path)} is of the kind {printable(sample.label)}, which no "
                f"training image has; trained kinds: {few_of(classes, 20)}"
            )
        kind = 0 if sample.is_normal else classes.index(sample.label) + 1
        classes_found = read_mask(sample, placement.source).astype(np.uint8) * np.uint8(kind)
        return classes_on_canvas(classes_found, placement)

    def prepare(self, network: SupervisedNetwork, truths: Sequence[Any]) -> None:
        """Check once that every mask holds classes: a loss that did would wait for the device."""
        for truth in truths:
            check_classes(truth, len(network.classes))

    def loss(self, network: SupervisedNetwork, batch: LabelledBatch) -> torch.Tensor:
        """Sum cross-entropy and Dice."""
        segmenter = cast(Segmenter, network)
        device = batch.pixels.device
        classes = torch.stack(list(batch.truths)).to(device)
        losses = segmenter.losses(batch.pixels, moved(classes, batch.moves.to(device)))
        return torch.stack(list(losses.values())).sum()

    def figures(
        self, answers: Sequence[Answer], truths: Sequence[Any], classes: tuple[str, ...]
    ) -> dict[str, Any]:
        """Intersection over union of canvas pixels."""
        masks = [answer.mask for answer in answers if answer.mask is not None]
        return overlap_figures(masks, [truth.numpy() for truth in truths], classes)


def overlap_figures(
    answers: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Intersection over union, summed over all images, of every kind that is marked somewhere.

    `mean_iou` is their mean, `any_iou` that of defects whatever their kind; nothing where nothing
    is marked. Pixels that are `IGNORED` do not count.
    """
    size = len(classes) + 1
    counts = np.zeros((size, size), np.int64)  # (true, answered)
    for answer, truth in zip(answers, truths, strict=True):
        is_known = truth != IGNORED
        pairs = truth[is_known].astype(np.int64) * size + answer[is_known]
        counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
    if not counts[1:].any():
        return {}
    common, marked = counts.diagonal(), counts.sum(axis=1)
    union = marked + counts.sum(axis=0) - common
    by_kind = {
        kind: float(common[i] / union[i]) for i, kind in enumerate(classes, start=1) if marked[i]
    }
    any_union = int(counts.sum() - counts[0, 0])
    return {
        "mean_iou": float(np.mean(list(by_kind.values()))),
        "any_iou": float(counts[1:, 1:].sum() / any_union),
        "iou_by_kind": by_kind,
    }


def classes_on_canvas(classes: np.ndarray, placement: Placement) -> torch.Tensor:
    """Bring classes (H, W) uint8 of an image to its canvas (S, S); `IGNORED` around the image."""
    top, left, bottom, right = placement.box
    size = (right - left, bottom - top)
    canvas = np.full(placement.canvas, IGNORED, np.uint8)
    canvas[top:bottom, left:right] = cv2.resize(
        classes, size, interpolation=cv2.INTER_NEAREST_EXACT
    )
    return torch.from_numpy(canvas)


def moved(classes: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Move classes (B, S, S) as their canvases were; what came in from outside is `IGNORED`."""
    size = [len(classes), 1, *classes.shape[1:]]
    grid = F.affine_grid(moves.float(), size, align_corners=False)
    lifted = classes.unsqueeze(1).float() + 1  # so that the zeros around are no class
    sampled = F.grid_sample(lifted, grid, "nearest", "zeros", align_corners=False)
    back = sampled.round().long()[:, 0] - 1
    return torch.where(back < 0, IGNORED, back)
