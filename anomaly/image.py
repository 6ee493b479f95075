"""Bytes to `RgbImage`: the only decoder.

Says which reader a file goes to; knows nothing of models. Each reader is strict (a truncated or
damaged file is an error, not a grey half) and knows size and depth before it decodes. Alpha is
dropped; grey is repeated into three channels; more than 8 bits stay 16. What is not read is named
in the error.
"""

import numpy as np
from numpy.typing import NDArray

from anomaly.bmp import read_bmp
from anomaly.directory import is_tiff
from anomaly.errors import CorruptImage, EmptyImage, UnsupportedFormat
from anomaly.jpeg import read_jpeg
from anomaly.limits import DEFAULT_LIMITS, MASK_LIMITS, MIN_SIDE_PX, ImageLimits
from anomaly.png import SIGNATURE, read_png
from anomaly.signature import name_of
from anomaly.tiff import read_tiff
from anomaly.types import RgbImage

__all__ = ["EXTENSIONS", "FORMATS", "MIN_SIDE_PX", "ImageLimits", "decode_image", "decode_mask"]

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def decode_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, canvas: int | None = None
) -> RgbImage:
    """Decode an encoded image to (H, W, 3) RGB, turned upright by its EXIF orientation.

    With `canvas`, the side of the square that the image is for, a JPEG is decoded at a half, a
    quarter or an eighth where no side falls below twice the canvas: the decoder averages what would
    be averaged away.

    Raises `EmptyImage`, `UnsupportedFormat`, `ImageTooSmall`, `ImageTooLarge` or `CorruptImage`.
    """
    if not data:
        raise EmptyImage("the image is empty (0 bytes); send the bytes of a JPEG, PNG, BMP or TIFF")
    if data.startswith(b"\xff\xd8"):
        return read_jpeg(data, limits, canvas)
    if data.startswith(SIGNATURE):
        return read_png(data, limits)
    if data.startswith(b"BM"):
        return read_bmp(data, limits)
    if is_tiff(data):
        return read_tiff(data, limits)
    if data.startswith(b"\x89PNG"):
        raise CorruptImage("the PNG was changed on its way, as text is; send it as binary data")
    raise UnsupportedFormat(_not_read(data))


def decode_mask(data: bytes, limits: ImageLimits = MASK_LIMITS) -> NDArray[np.bool_]:
    """Decode a mask to (H, W): True is any pixel that is not black, however little.

    Raises what `decode_image` does.
    """
    pixels = decode_image(data, limits).pixels
    mask: NDArray[np.bool_] = (pixels[..., 0] | pixels[..., 1] | pixels[..., 2]) != 0
    return mask


def _not_read(data: bytes) -> str:
    name = name_of(data)
    if name is None:
        return "not an image this service reads; send JPEG, PNG, BMP or TIFF"
    return f"this is {name}, which is not read; send the bytes of a JPEG, PNG, BMP or TIFF"
