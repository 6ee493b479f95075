"""The training half of detection: labelled boxes, the detector's losses, COCO's figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torchvision.ops import box_area, clip_boxes_to_image

from anomaly.types import Placement
from supervised.boxes import BoxDetector, BoxTensors
from supervised.network import SupervisedNetwork
from supervised.types import Answer
from training.boxes import Boxes, check_inside, labelled_boxes
from training.coco_metrics import check_installed, coco_by_kind, coco_figures
from training.errors import DataError
from training.finetune.batch import LabelledBatch
from training.finetune.config import LossConfig
from training.samples import Sample, few_of, printable

_SMALLEST = 1.0  # pixels of the canvas; a box that a move leaves less of teaches nothing
_LEFT = 0.3  # of its area


@dataclass(frozen=True, slots=True)
class BoxTruth:
    """What is labelled in an image: in its own pixels, and as a target on its canvas."""

    boxes: Boxes
    target: BoxTensors


class DetectionTraining:
    """Boxes with kinds; kinds are those of the boxes, whatever folders are called."""

    def __init__(self, loss: LossConfig) -> None:
        """Build it; the detector has its own losses, which nothing of `loss` changes."""

    def classes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Name the kinds of all labelled boxes, in alphabetical order."""
        check_installed()
        kinds = {kind for sample in samples for kind in labelled_boxes(sample).kinds}
        if not kinds:
            raise DataError(
                f"none of {len(samples)} images has a labelled box; label at least a few defects"
            )
        return tuple(sorted(kinds))

    def truth(self, sample: Sample, placement: Placement, classes: tuple[str, ...]) -> BoxTruth:
        """Read a sample's boxes and place them on its canvas."""
        boxes = labelled_boxes(sample)
        check_inside(boxes, placement.source, sample.path)
        strange = sorted(set(boxes.kinds) - set(classes))
        if strange:
            raise DataError(
                f"{printable(sample.path)} has boxes of {few_of(strange)}, which no training image "
                f"has; trained kinds: {few_of(classes, 20)}"
            )
        labels = torch.tensor([classes.index(kind) + 1 for kind in boxes.kinds], dtype=torch.int64)
        return BoxTruth(boxes, {"boxes": on_canvas(boxes.corners, placement), "labels": labels})

    def prepare(self, network: SupervisedNetwork, truths: Sequence[Any]) -> None:
        """Boxes want nothing before the first step."""

    def loss(self, network: SupervisedNetwork, batch: LabelledBatch) -> torch.Tensor:
        """Sum the losses of proposals and of what they are said to be."""
        detector, size = cast(BoxDetector, network), batch.pixels.shape[2:]
        targets = [
            moved(truth.target, move, (size[0], size[1]))
            for truth, move in zip(batch.truths, batch.moves.float().cpu(), strict=True)
        ]
        device = batch.pixels.device
        on_device = [{k: v.to(device) for k, v in target.items()} for target in targets]
        losses = detector.losses(batch.pixels, on_device)
        return torch.stack(list(losses.values())).sum()

    def figures(
        self, answers: Sequence[Answer], truths: Sequence[Any], classes: tuple[str, ...]
    ) -> dict[str, Any]:
        """COCO's figures, of boxes with kinds and of boxes whatever their kind."""
        return box_figures([truth.boxes for truth in truths], [boxes_of(a) for a in answers])


def box_figures(truth: Sequence[Boxes], answers: Sequence[Boxes]) -> dict[str, Any]:
    """Return AP, AP50, AP75 and AR, AP50 and AR without kinds, and AP50 of every kind."""
    figures: dict[str, Any] = dict(coco_figures(truth, answers))
    if not figures:
        return {}
    alike = coco_figures([b.without_kinds() for b in truth], [b.without_kinds() for b in answers])
    figures |= {f"{name}_any_kind": alike[name] for name in ("AP50", "AR")}
    by_kind = coco_by_kind(truth, answers)
    return figures | {"AP50_by_kind": {kind: row["AP50"] for kind, row in by_kind.items()}}


def boxes_of(answer: Answer) -> Boxes:
    """Turn a network's answer into boxes that can be measured."""
    corners = [(x, y, x + w, y + h) for x, y, w, h in (box.bbox for box in answer.boxes)]
    return Boxes(
        np.array(corners, np.float64).reshape(-1, 4),
        tuple(box.kind for box in answer.boxes),
        np.array([box.probability for box in answer.boxes], np.float64),
    )


def on_canvas(corners: np.ndarray, placement: Placement) -> torch.Tensor:
    """Bring (N, 4) corners in an image's pixels to its canvas; the inverse of `to_source`."""
    scale_y, scale_x = placement.scale
    top, left = placement.box[:2]
    scales, shift = np.array([scale_x, scale_y] * 2), np.array([left, top] * 2)
    return torch.from_numpy(corners / scales + shift).float()


def moved(target: BoxTensors, move: torch.Tensor, size: tuple[int, int]) -> BoxTensors:
    """Move a target as its canvas of `size` (H, W) was; what left the canvas is dropped.

    `move` (2, 3) leads from a place of the new canvas to one of the old, both in [-1, 1].
    """
    height, width = size
    scale = torch.tensor([2 / width, 2 / height])
    x1, y1, x2, y2 = target["boxes"].unbind(dim=1)
    corners = torch.stack([x1, y1, x2, y1, x1, y2, x2, y2], dim=1).view(-1, 4, 2)  # (N, 4, xy)
    back = torch.linalg.inv(move[:, :2])
    places = ((corners * scale - 1 - move[:, 2]) @ back.T + 1) / scale
    boxes = torch.cat([places.amin(dim=1), places.amax(dim=1)], dim=1)
    clipped = clip_boxes_to_image(boxes, size)
    sides = (clipped[:, 2:] - clipped[:, :2]).amin(dim=1)
    stays = (sides >= _SMALLEST) & (box_area(clipped) >= _LEFT * box_area(boxes))
    return {"boxes": clipped[stays], "labels": target["labels"][stays]}
