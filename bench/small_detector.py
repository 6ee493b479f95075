"""A small torchvision detector to stand beside: EfficientNet-Lite0, feature pyramid, Faster R-CNN.

Its backbone has the published ImageNet weights that feature targets use, and all of it is trained.
Stages, anchors and widths behind the backbone are those of the detector it is held against.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from anomaly.targets import TargetConfig, load_backbone
from anomaly.types import Placement
from supervised.boxes import BoxConfig, BoxTensors, boxes_in_image, faster_rcnn
from supervised.network import SupervisedNetwork
from supervised.types import Answer
from training.finetune.batch import LabelledBatch
from training.finetune.config import FinetuneConfig
from training.finetune.detection import DetectionTraining
from training.finetune.examples import Examples
from training.finetune.optimiser import set_rate
from training.finetune.variation import draw_moves, lit, moved
from training.schedule import batch_indices


class SmallDetector(nn.Module):
    """Canvases to boxes, as `supervised.boxes.BoxDetector` does it."""

    def __init__(self, classes: tuple[str, ...], config: BoxConfig) -> None:
        super().__init__()
        self.classes = classes
        backbone = _Pyramid(config.channels)
        cfg = backbone.features.pretrained_cfg
        self.detector = faster_rcnn(
            backbone,
            len(classes),
            config,
            image_mean=list(cfg["mean"]),
            image_std=list(cfg["std"]),
            _skip_resize=True,
            size_divisible=1,
        )

    def losses(self, pixels: torch.Tensor, targets: Sequence[BoxTensors]) -> BoxTensors:
        """Return what is minimised, by name."""
        losses: BoxTensors = self.detector(list(pixels), list(targets))
        return losses

    def answers(self, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Answer]:
        """Boxes of every image, the surest first."""
        return [
            Answer(placement, boxes=boxes_in_image(answer, placement, self.classes))
            for answer, placement in zip(self.detector(list(pixels)), placements, strict=True)
        ]


class _Pyramid(nn.Module):
    """Strides 4, 8, 16 and 32 of the backbone, brought to one width from the top down."""

    features: Any  # timm's wrapper carries what it gives without declaring it

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = load_backbone(TargetConfig()).requires_grad_(requires_grad=True)
        self.pyramid = FeaturePyramidNetwork(self.features.feature_info.channels(), channels)
        self.out_channels = channels

    def train(self, mode: bool = True) -> "_Pyramid":  # noqa: FBT001  (torch's)
        """Keep the statistics of ImageNet: batches are too small for their own."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        stages = self.features(pixels)
        maps: dict[str, torch.Tensor] = self.pyramid(
            OrderedDict((str(i), stage) for i, stage in enumerate(stages))
        )
        return maps


def train_small(network: SmallDetector, examples: Examples, config: FinetuneConfig) -> None:
    """Train on the batches, views and learning rates that the recipe's loop would give."""
    settings, seed = config.optimiser, config.run.seed
    task = DetectionTraining(config.loss)
    groups = [{"params": list(network.parameters()), "lr_scale": 1.0}]
    optimiser = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=0.05)
    steps, size = settings.steps(len(examples)), settings.batch(len(examples))
    order = [batch_indices(i, len(examples), size, seed).tolist() for i in range(steps)]
    network.train()
    with torch.random.fork_rng(devices=[]):
        for step, canvases in enumerate(examples.batches(order)):
            generator = np.random.default_rng((seed, 4, step))
            torch.manual_seed(int(generator.integers(2**63)))
            moves = draw_moves(len(canvases), config.variation, generator)
            views = lit(moved(canvases, moves), config.variation, generator)
            truths = [examples.truths[i] for i in order[step]]
            set_rate(optimiser, step, steps, settings)
            batch = LabelledBatch(views, truths, moves, generator)
            loss = task.loss(cast(SupervisedNetwork, network), batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimiser.step()
    network.eval()
