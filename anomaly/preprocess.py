"""`RgbImage` to a canvas the model sees, and a `Placement` to map results back.

Training, calibration, evaluation and serving all go through `preprocess`: one implementation, so
that no two of them can differ. It knows nothing of backbones: their mean and spread are applied in
`anomaly.targets`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

from anomaly.bands import folded, spread_shape
from anomaly.errors import ConfigError
from anomaly.types import FloatArray, Placement, RgbImage

MOST_CANVAS = 4096
MOST_BANDS = 16


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How an image becomes a canvas.

    `stretch` fills the square; `letterbox` keeps the aspect and repeats the border into the rest.
    `white_level` is the value of white in 16-bit images: 4095 for a 12-bit camera. It is declared,
    never guessed from the image, because a guess makes dark parts bright. A long picture is cut
    across its long side into `bands`, which lie side by side on the canvas (`anomaly.bands`).
    """

    canvas: int = 224
    fit: Literal["stretch", "letterbox"] = "stretch"
    white_level: int = 65535
    bands: int = 1

    def __post_init__(self) -> None:
        if not 32 <= self.canvas <= MOST_CANVAS or self.canvas % 16:
            raise ConfigError(
                f"preprocess.canvas is {self.canvas}; want a multiple of 16 from 32 to "
                f"{MOST_CANVAS}"
            )
        if not 1 <= self.bands <= MOST_BANDS or self.canvas % (16 * self.bands):
            raise ConfigError(
                f"preprocess.bands is {self.bands}; want 1 to {MOST_BANDS}, and a canvas that is a "
                f"multiple of 16 times as many (it is {self.canvas})"
            )
        if self.fit not in ("stretch", "letterbox"):
            raise ConfigError(f"preprocess.fit is {self.fit!r}; want 'stretch' or 'letterbox'")
        if not 255 <= self.white_level <= 65535:
            raise ConfigError(f"preprocess.white_level is {self.white_level}; want 255 to 65535")


def preprocess(
    images: Sequence[RgbImage], config: PreprocessConfig
) -> tuple[torch.Tensor, list[Placement]]:
    """Place images on canvases: (B, 3, S, S) float32 in [0, 1] and one placement each."""
    placed = [place(image, config) for image in images]
    canvases = np.stack([canvas for canvas, _ in placed])  # (B, S, S, 3)
    pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2).contiguous()
    return pixels, [placement for _, placement in placed]


def place(image: RgbImage, config: PreprocessConfig) -> tuple[FloatArray, Placement]:
    """Place one image: (S, S, 3) float32 in [0, 1], and where it lies."""
    placement = placement_of(image.source_size, config)
    box, canvas = placement.box, placement.canvas
    height, width = box[2] - box[0], box[3] - box[1]
    shrinks = image.size[0] >= height and image.size[1] >= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image.pixels, (width, height), interpolation=interpolation)
    if (height, width) != canvas:
        resized = cv2.copyMakeBorder(
            resized, box[0], canvas[0] - box[2], box[1], canvas[1] - box[3], cv2.BORDER_REPLICATE
        )
    return to_unit(folded(resized), config.white_level), placement


def placement_of(size: tuple[int, int], config: PreprocessConfig) -> Placement:
    """Where an image of (H, W) lies on the canvas, whose bands are put one after the other."""
    canvas = spread_shape(config.canvas, config.bands, is_tall=size[0] > size[1])
    return Placement(size, canvas, _box(size, canvas, config.fit))


def to_unit(pixels: np.ndarray, white_level: int) -> FloatArray:
    """Scale uint8 or uint16 pixels to float32 in [0, 1]; values above white are clipped."""
    eight_bit = pixels.dtype == np.uint8
    unit: FloatArray = np.divide(
        pixels, np.float32(255 if eight_bit else white_level), dtype=np.float32
    )
    return unit if eight_bit else np.minimum(unit, np.float32(1), out=unit)


def content_seed(canvas: torch.Tensor) -> int:
    """Return a 32-bit seed from what the model sees, so that the same image gets the same masks."""
    return zlib.crc32(canvas.contiguous().numpy().tobytes())


def _box(size: tuple[int, int], canvas: tuple[int, int], fit: str) -> tuple[int, int, int, int]:
    if fit == "stretch":
        return 0, 0, *canvas
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    return top, left, top + height, left + width
