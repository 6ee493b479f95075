"""Small, label-free augmentation: image crops; flips, shifts, brightness, contrast of the canvas.

Deterministic: the variation of an image follows from its seed alone, so a resumed run and a rebuilt
cache see the same images. Crops are cut when the image is read; the rest runs on the device, a
batch at once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anomaly.device import to_device
from anomaly.types import RgbImage
from training.config import AugmentConfig

Seed = tuple[int, ...]
_ASPECT = (3 / 4, 4 / 3)


def crop(image: RgbImage, config: AugmentConfig, seed: Seed) -> RgbImage:
    """Cut a random part of the image, of a random share of its area and a random aspect.

    As torchvision's RandomResizedCrop, which the official MAE recipe uses (He et al. 2022, appendix
    A).
    """
    generator = np.random.default_rng((*seed, 1))
    area = generator.uniform(*config.crop)
    aspect = np.exp(generator.uniform(*np.log(_ASPECT)))
    height, width = image.size
    cut_height = min(height, max(1, round(np.sqrt(area * height * width / aspect))))
    cut_width = min(width, max(1, round(np.sqrt(area * height * width * aspect))))
    top = int(generator.integers(height - cut_height + 1))
    left = int(generator.integers(width - cut_width + 1))
    pixels: Any = image.pixels  # uint8 or uint16, as before
    part = pixels[top : top + cut_height, left : left + cut_width]
    return RgbImage(np.ascontiguousarray(part))


def vary(pixels: torch.Tensor, config: AugmentConfig, seeds: Sequence[Seed | None]) -> torch.Tensor:
    """Return varied copies of (B, 3, S, S) canvases in [0, 1], each by its seed; None: as it is."""
    varied = [index for index, seed in enumerate(seeds) if seed is not None]
    if not varied:
        return pixels
    drawn = np.stack([_draw(config, seed) for seed in seeds if seed is not None])
    numbers = to_device(torch.from_numpy(drawn), pixels.device).view(len(varied), -1, 1, 1, 1)
    flip_x, flip_y, dx, dy, gain, offset = numbers.unbind(dim=1)  # each (V, 1, 1, 1)
    to_vary = pixels if len(varied) == len(pixels) else pixels[varied]
    moved = _shift(_flip(to_vary, flip_x, flip_y), dx, dy) if config.moves else to_vary
    centre = moved.mean(dim=(1, 2, 3), keepdim=True)
    result = ((moved - centre) * gain + centre + offset).clamp(0, 1)
    if len(varied) == len(pixels):
        return result
    together = pixels.clone()
    together[varied] = result
    return together


def _draw(config: AugmentConfig, seed: Seed) -> np.ndarray:
    """Six numbers: whether to flip each way, the shift in shares of the side, gain, offset."""
    generator = np.random.default_rng(seed)
    flips = generator.random(2) < 0.5
    shift = generator.uniform(-config.shift, config.shift, 2)
    gain = 1 + generator.uniform(-config.contrast, config.contrast)
    offset = generator.uniform(-config.brightness, config.brightness)
    return np.array(
        [
            flips[0] and config.flip_horizontal,
            flips[1] and config.flip_vertical,
            *shift,
            gain,
            offset,
        ],
        dtype=np.float32,
    )


def _flip(pixels: torch.Tensor, flip_x: torch.Tensor, flip_y: torch.Tensor) -> torch.Tensor:
    pixels = torch.where(flip_x > 0, pixels.flip(3), pixels)
    return torch.where(flip_y > 0, pixels.flip(2), pixels)


def _shift(pixels: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """Move by shares of the side; the border is repeated into what becomes free."""
    theta = torch.eye(2, 3, device=pixels.device).repeat(len(pixels), 1, 1)
    theta[:, 0, 2], theta[:, 1, 2] = -2 * dx.flatten(), -2 * dy.flatten()  # the side spans 2
    where = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, where, padding_mode="border", align_corners=False)
