"""Boxes from an encoder's last map: ViTDet's simple pyramid under torchvision's Faster R-CNN.

Li et al. 2022 ("Exploring Plain Vision Transformer Backbones for Object Detection") with the
two-stage detector of Ren et al. 2015. Boxes are on the canvas until they are answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.encoder import Encoder
from supervised.network import SupervisedNetwork
from supervised.pyramid import AT_ONCE, STRIDES, SimplePyramid, check_strides, maps_behind
from supervised.types import Answer, Box

_POOLED = 7  # cells along the side of a proposal, as in the paper

BoxTensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class BoxConfig:
    """Sizes of the detector behind the encoder, and which of its boxes are answered.

    A map of stride s proposes boxes of `anchors` · s canvas pixels, in three shapes: the smallest
    are of 10 px, since defects are small. `proposals` of a canvas are classified in training.
    Boxes of a kind that overlap by more than `overlap` are one; `at_most` are answered, none less
    sure than `score_floor`.
    """

    channels: int = 256
    head_width: int = 1024
    anchors: tuple[float, ...] = (2.5, 4.0)
    proposals: int = 128
    score_floor: float = 0.05
    overlap: float = 0.5
    at_most: int = 100

    def __post_init__(self) -> None:
        if min(self.channels, self.head_width, self.proposals, self.at_most) < 1:
            raise ConfigError("head.channels, head_width, proposals and at_most must be 1 or more")
        if not self.anchors or not min(self.anchors) > 0:
            raise ConfigError(f"head.anchors is {self.anchors}; want sizes in strides, above 0")
        if not (0 <= self.score_floor < 1 and 0 < self.overlap < 1):
            raise ConfigError("head.score_floor and head.overlap want 0 to 1")


class BoxDetector(SupervisedNetwork):
    """Canvases to boxes of the kinds that it was built for."""

    def __init__(self, encoder: Encoder, classes: tuple[str, ...], config: BoxConfig) -> None:
        super().__init__(encoder, classes)
        check_strides(encoder)
        encoder.norm = torch.nn.Identity()  # type: ignore[assignment]  # ViTDet's maps have none
        pyramid = SimplePyramid(encoder.width, encoder.grid.patch, config.channels)
        parts = faster_rcnn(pyramid, len(classes), config)
        self.pyramid, self.rpn, self.roi_heads = pyramid, parts.rpn, parts.roi_heads

    def forward(self, pixels: torch.Tensor) -> list[BoxTensors]:
        """(B, 3, S, S) canvases in [0, 1] to `boxes` (N, 4), `labels` from 1 on and `scores` (N,).

        Boxes are x1, y1, x2, y2 on the canvas, the surest first.
        """
        answers, _ = self._run(pixels, None)
        return answers

    def losses(self, pixels: torch.Tensor, targets: Sequence[BoxTensors]) -> BoxTensors:
        """Return what is minimised, by name, in training mode.

        A target has `boxes` (N, 4) on the canvas and `labels` (N,) from 1 on; N may be 0. Raises
        `ConfigError` for a box without area.
        """
        for target in targets:
            check_area(target["boxes"])
        _, losses = self._run(pixels, list(targets))
        return losses

    def answers(self, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Answer]:
        """Boxes of every image, the surest first."""
        chunks = torch.split(pixels, AT_ONCE)  # fine maps of many canvases outgrow the memory
        answers = [answer for chunk in chunks for answer in self(chunk)]
        return [
            Answer(placement, boxes=boxes_in_image(answer, placement, self.classes))
            for answer, placement in zip(answers, placements, strict=True)
        ]

    def _run(
        self, pixels: torch.Tensor, targets: list[BoxTensors] | None
    ) -> tuple[list[BoxTensors], BoxTensors]:
        encoded = maps_behind(self.encoder, pixels, (self.encoder.depth - 1,))[0]
        size = (pixels.shape[2], pixels.shape[3])
        images = ImageList(pixels, [size] * len(pixels))
        # Corners of boxes do not fit into half precision.
        with torch.autocast(pixels.device.type, enabled=False):
            maps = {str(i): level for i, level in enumerate(self.pyramid(encoded.float()))}
            proposals, first = self.rpn(images, maps, targets)
            answers, second = self.roi_heads(maps, proposals, images.image_sizes, targets)
        return answers, first | second


def boxes_in_image(
    answer: BoxTensors, placement: Placement, classes: Sequence[str]
) -> tuple[Box, ...]:
    """Bring a canvas's boxes to the caller's whole pixels, without those outside the image."""
    boxes = []
    for corners, label, score in zip(
        answer["boxes"].tolist(), answer["labels"].tolist(), answer["scores"].tolist(), strict=True
    ):
        top, left = placement.to_source(corners[1], corners[0])
        bottom, right = placement.to_source(corners[3], corners[2])
        x, y, width, height = round(left), round(top), round(right - left), round(bottom - top)
        if min(width, height) > 0:
            boxes.append(Box((x, y, width, height), classes[label - 1], score))
    return tuple(boxes)


def check_area(boxes: torch.Tensor) -> None:
    """Raise `ConfigError` where a box (N, 4) has no area, or is turned around."""
    is_flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if bool(is_flat.any()):
        corners = [round(v, 1) for v in boxes[is_flat][0].tolist()]
        raise ConfigError(f"the box {corners} has no area; want x1 < x2 and y1 < y2")


def faster_rcnn(
    backbone: torch.nn.Module, kinds: int, config: BoxConfig, **transform: Any
) -> FasterRCNN:
    """Build torchvision's detector on a `backbone` with `out_channels` and maps of four strides.

    `transform` is what it does to images first; a `BoxDetector` takes its two stages alone.
    """
    sizes = tuple(tuple(round(stride * size) for size in config.anchors) for stride in STRIDES)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(STRIDES)),
        box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(len(STRIDES))], _POOLED, 2),
        box_head=TwoMLPHead(config.channels * _POOLED**2, config.head_width),
        box_predictor=FastRCNNPredictor(config.head_width, kinds + 1),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=500,
        box_batch_size_per_image=config.proposals,
        box_score_thresh=config.score_floor,
        box_nms_thresh=config.overlap,
        box_detections_per_img=config.at_most,
        **transform,
    )
