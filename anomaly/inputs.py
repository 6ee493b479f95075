"""What the camera sends, in a few numbers: brightness, contrast, sharpness, colour.

They tell a change of lamp, lens or camera from a change of the parts. They know nothing of defects.
"""

import cv2
import numpy as np

from anomaly.types import FloatArray

STATISTICS: tuple[str, ...] = ("brightness", "contrast", "sharpness", "red", "blue")


def input_statistics(canvas: FloatArray) -> FloatArray:
    """Measure one canvas (S, S, 3) in [0, 1]: `STATISTICS`, (5,) float32.

    Brightness and contrast are mean and deviation of the grey value; sharpness is the logarithm of the
    mean absolute Laplacian over the contrast, so that it does not follow the light; red and blue are the mean
    of their channel over that of green, as logarithms.
    """
    grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    edges = float(cv2.norm(cv2.Laplacian(grey, cv2.CV_32F), cv2.NORM_L1)) / grey.size
    red, green, blue, _ = np.log(np.array(cv2.mean(canvas)) + 1e-3)
    contrast = float(deviation[0, 0])
    sharpness = np.log(edges + 1e-6) - np.log(contrast + 1e-3)
    values = (float(mean[0, 0]), contrast, sharpness, red - green, blue - green)
    return np.array(values, np.float32)
