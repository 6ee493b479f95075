"""Random views of canvases: one affine map each, and light. Boxes and masks can be moved along."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from anomaly.device import to_device
from training.finetune.config import VariationConfig

_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))


def draw_moves(count: int, config: VariationConfig, generator: np.random.Generator) -> torch.Tensor:
    """Draw affine maps (count, 2, 3) from places of the new canvas to places of the old.

    Places are in [-1, 1] each way, as torch's `affine_grid` has them. The crop is that of
    torchvision's RandomResizedCrop, which the paper uses.
    """
    area = generator.uniform(*config.crop, count)
    aspect = np.exp(generator.uniform(*_LOG_ASPECT, count)) if config.crop[0] < 1 else 1.0
    scale = np.minimum(1, np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1))
    offset = generator.uniform(-1, 1, (count, 2)) * (1 - scale)
    offset += generator.uniform(-2 * config.shift, 2 * config.shift, (count, 2))
    flips = generator.random((count, 2)) < 0.5
    flips &= np.array([config.flip_horizontal, config.flip_vertical])
    moves = np.zeros((count, 2, 3), np.float32)
    moves[:, 0, 0], moves[:, 1, 1] = np.where(flips, -scale, scale).T
    moves[:, :, 2] = offset
    return torch.from_numpy(moves)


def moved(pixels: torch.Tensor, moves: torch.Tensor, *, mode: str = "bilinear") -> torch.Tensor:
    """Look at (B, C, H, W) through (B, 2, 3) maps; the border is repeated into what lies beyond."""
    where = F.affine_grid(moves.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, where, mode=mode, padding_mode="border", align_corners=False)


def lit(
    pixels: torch.Tensor, config: VariationConfig, generator: np.random.Generator
) -> torch.Tensor:
    """Change contrast and brightness of (B, 3, H, W) in [0, 1], for each image by itself."""
    drawn = generator.uniform(-1, 1, (len(pixels), 2)) * (config.contrast, config.brightness)
    numbers = to_device(torch.from_numpy(drawn.astype(np.float32)), pixels.device)
    gain, offset = (numbers + numbers.new_tensor([1, 0])).view(-1, 2, 1, 1, 1).unbind(dim=1)
    centre = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return ((pixels - centre) * gain + centre + offset).clamp(0, 1)
