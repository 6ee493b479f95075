"""A class for every pixel: a UperNet-style head on four maps of an encoder.

Pyramid pooling on the last map, laterals summed from the top down, all levels fused (Xiao et al.
2018, "Unified Perceptual Parsing for Scene Understanding"), on maps of a plain transformer brought
to four strides as BEiT and MAE do for ADE20K. Narrower than theirs, and normalised per position
instead of per batch: batches here are small. Class 0 is the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import nn

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.encoder import Encoder
from supervised.network import SupervisedNetwork
from supervised.pyramid import (
    AT_ONCE,
    STRIDES,
    check_strides,
    maps_behind,
    rescaling,
    tapped_blocks,
)
from supervised.types import Answer

IGNORED = 255  # a pixel of which nothing is known, such as the border around an image
MOST_KINDS = 254
_POOLS = (1, 2, 3, 6)  # the paper's grids
_DICE_FLOOR = 1.0  # pixels added to both sides: an absent class is neither 0/0 nor a jump


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """Width of the head and what is minimised.

    Defects cover little: the background's cross-entropy counts `background_weight` times that of a
    kind. `dice_weight` of the soft Dice loss over the kinds at hand is added (0: none).
    """

    channels: int = 128
    dropout: float = 0.1
    background_weight: float = 0.2
    dice_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.channels < 1 or not 0 <= self.dropout < 1:
            raise ConfigError("head wants channels of 1 or more and dropout of 0 to 1")
        if self.background_weight <= 0 or self.dice_weight < 0:
            raise ConfigError("head wants background_weight above 0, dice_weight of 0 or more")


class Segmenter(SupervisedNetwork):
    """Canvases to logits (B, 1 + kinds, S, S), background first."""

    def __init__(self, encoder: Encoder, classes: tuple[str, ...], config: MaskConfig) -> None:
        super().__init__(encoder, classes)
        check_strides(encoder)
        if len(classes) > MOST_KINDS:
            raise ConfigError(f"a mask has room for {MOST_KINDS} kinds, not for {len(classes)}")
        encoder.norm = nn.Identity()  # type: ignore[assignment]  # maps are taken before it
        self.config = config
        self.taps = tapped_blocks(encoder.depth)
        rescaled = [rescaling(encoder.width, encoder.grid.patch, stride) for stride in STRIDES]
        self.rescale = nn.ModuleList(layers for layers, _ in rescaled)
        self.head = UperHead([width for _, width in rescaled], len(classes) + 1, config)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) canvases in [0, 1] to logits of the same size."""
        maps = maps_behind(self.encoder, pixels, self.taps)
        levels = [layers(tap) for layers, tap in zip(self.rescale, maps, strict=True)]
        logits: torch.Tensor = self.head(levels)
        return F.interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=False)

    def losses(self, pixels: torch.Tensor, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is minimised, by name; `classes` (B, S, S) are indices, or `IGNORED`."""
        return mask_losses(self(pixels).float(), classes, self.config)

    def answers(self, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Answer]:
        """The class of every canvas pixel."""
        chunks = torch.split(pixels, AT_ONCE)  # fine maps of many canvases outgrow the memory
        indices = torch.cat([self(chunk).argmax(dim=1) for chunk in chunks])
        masks = indices.to(torch.uint8).cpu().numpy()
        return [
            Answer(placement, mask=mask) for mask, placement in zip(masks, placements, strict=True)
        ]


class UperHead(nn.Module):
    """Four maps, finest first, to logits at the finest one's size."""

    def __init__(self, widths: Sequence[int], classes: int, config: MaskConfig) -> None:
        super().__init__()
        channels = config.channels
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv(widths[-1], channels, 1))
            for side in _POOLS
        )
        self.bottleneck = _conv(widths[-1] + len(_POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList(_conv(width, channels, 1) for width in widths[:-1])
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in widths[:-1])
        self.fuse = _conv(len(widths) * channels, channels, 3)
        self.classify = nn.Sequential(
            nn.Dropout2d(config.dropout), nn.Conv2d(channels, classes, kernel_size=1)
        )

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pool the last map, add from the top down, fuse, classify."""
        last = levels[-1]
        pooled = [_resized(pool(last), last) for pool in self.pooled]
        tops = [self.bottleneck(torch.cat([last, *pooled], dim=1))]
        laterals = [layer(level) for layer, level in zip(self.laterals, levels, strict=False)]
        for lateral in reversed(laterals):
            tops.insert(0, lateral + _resized(tops[0], lateral))
        smoothed = [layer(top) for layer, top in zip(self.smooth, tops, strict=False)] + tops[-1:]
        fused = self.fuse(torch.cat([_resized(top, smoothed[0]) for top in smoothed], dim=1))
        logits: torch.Tensor = self.classify(fused)
        return logits


def mask_losses(
    logits: torch.Tensor, classes: torch.Tensor, config: MaskConfig
) -> dict[str, torch.Tensor]:
    """Weighted cross-entropy, and soft Dice over the kinds that a batch shows.

    `logits` are (B, K, H, W) with the background first, `classes` (B, H, W). Dice follows Milletari
    et al. 2016 ("V-Net"), with plain sums below the line.
    """
    weight = torch.ones(logits.shape[1], device=logits.device)
    weight[0] = config.background_weight
    is_known = (classes != IGNORED).unsqueeze(1)
    # By hand, since torch's weighted mean is 0/0 where every pixel is ignored.
    entropy = F.cross_entropy(logits, classes, weight, ignore_index=IGNORED, reduction="none")
    weights = weight[classes.where(is_known[:, 0], 0)] * is_known[:, 0]
    losses = {"cross_entropy": entropy.sum() / weights.sum().clamp(min=1e-6)}
    if config.dice_weight:
        losses["dice"] = config.dice_weight * _dice(logits, classes, is_known)
    return losses


def _dice(logits: torch.Tensor, classes: torch.Tensor, is_known: torch.Tensor) -> torch.Tensor:
    indices = classes.where(is_known[:, 0], 0)
    truth = F.one_hot(indices, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:] * is_known
    share = logits.softmax(dim=1)[:, 1:] * is_known
    common = (share * truth).sum(dim=(0, 2, 3))
    total = share.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    is_shown = truth.sum(dim=(0, 2, 3)) > 0
    losses = 1 - (2 * common + _DICE_FLOOR) / (total + _DICE_FLOOR)
    return (losses * is_shown).sum() / is_shown.sum().clamp(min=1)


def check_classes(classes: torch.Tensor, kinds: int) -> None:
    """Raise `ConfigError` where a mask holds a value that is no class: 0 to `kinds`, or 255."""
    is_class = (classes >= 0) & (classes <= kinds) | (classes == IGNORED)
    if not bool(is_class.all()):
        value = int(classes[~is_class][0])
        raise ConfigError(
            f"a mask holds the value {value}; want 0 for the background, 1 to {kinds} for the "
            f"kinds, or {IGNORED} for what is not known"
        )


def _conv(width: int, channels: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, side, padding=side // 2, bias=False),
        LayerNorm2d(channels),
        nn.GELU(),
    )


def _resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
