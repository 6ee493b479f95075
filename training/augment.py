"""Small, label-free variations of a canvas: flips, shifts, brightness, contrast.

Deterministic: the variation of a canvas follows from its seed alone, so a resumed run and a rebuilt
cache see the same images.
"""

import cv2
import numpy as np

from anomaly.types import FloatArray
from training.config import AugmentConfig


def vary(canvas: FloatArray, config: AugmentConfig, seed: tuple[int, ...]) -> FloatArray:
    """Return a varied copy of an (S, S, 3) float32 canvas in [0, 1]."""
    generator = np.random.default_rng(seed)
    varied = _flip(canvas, config, generator)
    varied = _shift(varied, config.shift, generator)
    gain = 1 + generator.uniform(-config.contrast, config.contrast)
    offset = generator.uniform(-config.brightness, config.brightness)
    centre = float(varied.mean())
    result: FloatArray = np.clip((varied - centre) * gain + centre + offset, 0, 1)
    return result.astype(np.float32)


def _flip(canvas: FloatArray, config: AugmentConfig, generator: np.random.Generator) -> FloatArray:
    if config.flip_horizontal and generator.random() < 0.5:
        canvas = canvas[:, ::-1]
    if config.flip_vertical and generator.random() < 0.5:
        canvas = canvas[::-1]
    return np.ascontiguousarray(canvas)


def _shift(canvas: FloatArray, share: float, generator: np.random.Generator) -> FloatArray:
    if share == 0:
        return canvas
    side = canvas.shape[0]
    dx, dy = generator.uniform(-share, share, 2) * side
    matrix = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
    shifted: FloatArray = np.asarray(
        cv2.warpAffine(canvas, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    return shifted
