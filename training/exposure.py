"""Whether 16-bit images use the range that the recipe declares, said once before training.

It reads a few images and knows nothing of cameras: what is white is the user's to declare.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.preprocess import PreprocessConfig
from training.data import Sample

_log = logging.getLogger(__name__)
_LOOKED_AT = 8  # images
_DARK = 1 / 8  # of the white level
_BRIGHT_PERCENTILE = 99.9  # a few hot pixels are no light
_USUAL_WHITES = (1023, 4095, 16383)  # of 10, 12 and 14 bits


def warn_of_dark(samples: Sequence[Sample], config: PreprocessConfig) -> None:
    """Log a warning where a few 16-bit images all stay below an eighth of the white level."""
    brightest = max(_bright_values(samples), default=None)
    if brightest is None or brightest >= _DARK * config.white_level:
        return
    white = next(white for white in _USUAL_WHITES if white >= brightest)
    _log.warning(
        "the 16-bit images looked at are nearly black: they stay at %d, and white is declared as "
        "%d. Declare the camera's white (4095 for 12 bits): --set model.preprocess.white_level=%d",
        brightest,
        config.white_level,
        white,
    )


def _bright_values(samples: Sequence[Sample]) -> Iterator[int]:
    """Yield how bright each 16-bit image gets, of a few spread over all samples."""
    for sample in samples[:: max(1, len(samples) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            pixels = decode_image(sample.path.read_bytes()).pixels
        except (ImageError, OSError):  # reading for training says so
            continue
        if pixels.dtype == np.uint16:
            yield int(np.percentile(pixels, _BRIGHT_PERCENTILE))
