"""What the camera sends, in a few numbers: brightness, contrast, sharpness, colour.

They tell a change of lamp, lens or camera from a change of the parts: each is a median over tiles
of the image, so that a defect, which covers few of them, hardly moves it. They know nothing of
defects.
"""

import cv2
import numpy as np

from anomaly.types import FloatArray

STATISTICS: tuple[str, ...] = ("brightness", "contrast", "sharpness", "red", "blue")
_TILES = 8  # along a side


def input_statistics(canvas: FloatArray) -> FloatArray:
    """Measure one canvas (S, S, 3) in [0, 1]: `STATISTICS`, (5,) float32.

    Brightness and contrast are mean and deviation of the grey value in a tile; sharpness is the
    logarithm of the mean absolute Laplacian over the contrast, so that it does not follow the
    light; red and blue are the mean of their channel over that of green, as logarithms.
    """
    grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
    mean = _tiles(grey)
    contrast = np.sqrt(np.maximum(_tiles(grey * grey) - mean * mean, 0))
    edges = _tiles(np.abs(cv2.Laplacian(grey, cv2.CV_32F)))
    sharpness = np.log(edges + 1e-6) - np.log(contrast + 1e-3)
    red, green, blue = np.moveaxis(np.log(_tiles(canvas) + 1e-3), 2, 0)
    values = np.stack([mean, contrast, sharpness, red - green, blue - green])
    medians: FloatArray = np.median(values.reshape(len(values), -1), axis=1).astype(np.float32)
    return medians


def _tiles(image: np.ndarray) -> FloatArray:
    """Mean of each tile, (T, T) or (T, T, C)."""
    return np.asarray(cv2.resize(image, (_TILES, _TILES), interpolation=cv2.INTER_AREA), np.float32)
