"""Maps of one stride to maps of four: what detectors and segmenters look at.

A plain transformer has one map (B, D, h, w). ViTDet's simple pyramid (Li et al. 2022, "Exploring
Plain Vision Transformer Backbones for Object Detection", Sec. 3) makes strides 4, 8, 16 and 32 of
its last one alone; UperNet takes four of its maps, each brought to one of the strides. Neither
knows what is looked for.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers.norm import LayerNorm2d
from torch import nn

from anomaly.errors import ConfigError, require_shape
from supervised.encoder import Encoder

STRIDES = (4, 8, 16, 32)
AT_ONCE = 4  # canvases that are answered about together
_NARROWEST = 8  # channels that halving stops at


class SimplePyramid(nn.Module):
    """One map (B, D, h, w) to four (B, C, ·, ·) at strides 4, 8, 16 and 32, finest first."""

    def __init__(self, width: int, stride: int, channels: int = 256) -> None:
        super().__init__()
        self.width = width
        self.out_channels = channels  # torchvision's detectors read it
        self.levels = nn.ModuleList(_level(width, stride, level, channels) for level in STRIDES)

    def forward(self, encoded: torch.Tensor) -> list[torch.Tensor]:
        """Bring the encoder's last map to every stride."""
        ok = encoded.ndim == 4 and encoded.shape[1] == self.width
        require_shape("map", tuple(encoded.shape), f"(B, {self.width}, h, w)", ok=ok)
        return [level(encoded) for level in self.levels]


def rescaling(width: int, stride: int, target_stride: int) -> tuple[nn.Sequential, int]:
    """Layers from one stride to another, and the channels behind them.

    Deconvolutions double a map's sides and halve its channels, pooling halves its sides.
    """
    doublings = round(math.log2(stride / target_stride))
    layers: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(-doublings)]
    for step in range(doublings):
        if step:
            layers += [LayerNorm2d(width), nn.GELU()]
        narrower = max(_NARROWEST, width // 2)
        layers.append(nn.ConvTranspose2d(width, narrower, kernel_size=2, stride=2))
        width = narrower
    return nn.Sequential(*layers), width


def check_strides(encoder: Encoder) -> None:
    """Raise `ConfigError` where an encoder's map cannot be brought to all strides."""
    patch, preprocess = encoder.grid.patch, encoder.config.preprocess
    if patch & (patch - 1):
        raise ConfigError(
            f"a patch of {patch} px cannot be brought to maps of strides {STRIDES}; boxes and "
            "masks want an encoder whose patch is a power of two, such as 8 or 16 px"
        )
    if preprocess.canvas % STRIDES[-1]:
        raise ConfigError(
            f"a canvas of {preprocess.canvas} px cannot be cut into maps down to stride "
            f"{STRIDES[-1]}; want preprocess.canvas a multiple of {STRIDES[-1]}"
        )
    if preprocess.bands > 1:
        raise ConfigError(
            "boxes and masks cannot be drawn across the bands of a long picture; want "
            "preprocess.bands of 1"
        )


def maps_behind(
    encoder: Encoder, pixels: torch.Tensor, blocks: Sequence[int]
) -> list[torch.Tensor]:
    """Return the maps (B, D, h, w) behind blocks, one for each that is named, twice or not."""
    distinct = sorted(set(blocks))
    maps = dict(zip(distinct, encoder(pixels, distinct).maps, strict=True))
    return [maps[block] for block in blocks]


def tapped_blocks(depth: int, taps: int = 4) -> tuple[int, ...]:
    """Indices of the blocks behind which maps are taken: evenly, the last one among them."""
    return tuple(math.ceil(depth * (tap + 1) / taps) - 1 for tap in range(taps))


def _level(width: int, stride: int, target_stride: int, channels: int) -> nn.Sequential:
    rescaled, width = rescaling(width, stride, target_stride)
    return nn.Sequential(
        rescaled,
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
