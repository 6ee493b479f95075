"""Bytes to `RgbImage`: the only decoder.

Knows formats, bit depth, orientation and size limits; knows nothing of models. JPEG goes through
libjpeg-turbo in strict mode (a truncated file is an error, not a grey half), the rest through
OpenCV. Alpha is dropped; grey is repeated into three channels; 16-bit stays 16-bit.
"""

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from anomaly.errors import (
    CorruptImage,
    EmptyImage,
    ImageTooLarge,
    ImageTooSmall,
    UnsupportedFormat,
)
from anomaly.types import RgbImage

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MIN_SIDE_PX = 16
_PNG = b"\x89PNG\r\n\x1a\n"
_SPARE = (
    2  # a reduced image is at least so many times the canvas, so that placing it averages still
)
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_HARMLESS_BYTES = 32_000_000  # decoded; any ratio is allowed up to here


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any pixel is decoded."""

    max_pixels: int = 100_000_000
    min_side_px: int = MIN_SIDE_PX
    max_ratio: float = 4000.0  # of decoded to encoded bytes; 8 grey bits of one value reach 3,100


DEFAULT_LIMITS = ImageLimits()


def decode_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, canvas: int | None = None
) -> RgbImage:
    """Decode an encoded image to (H, W, 3) RGB, turned upright by its EXIF orientation.

    With `canvas`, the side of the square that the image is for, a JPEG is decoded at a half, a quarter or an
    eighth where no side falls below twice the canvas: the decoder averages what would be averaged away.

    Raises `EmptyImage`, `UnsupportedFormat`, `ImageTooSmall`, `ImageTooLarge` or `CorruptImage`.
    """
    if not data:
        raise EmptyImage("the image is empty (0 bytes); send the bytes of a JPEG, PNG, BMP or TIFF")
    header = _read_header(data)
    _check_size(header.size, len(data), limits)
    if header.is_plain_jpeg:
        least = _reduced(header.size, canvas)
        pixels = _upright(_decode_jpeg(data, least), header.orientation)
        turned = header.orientation in _ON_ITS_SIDE
        sent = header.size[::-1] if turned else header.size
        return RgbImage(np.ascontiguousarray(pixels), None if least == header.size else sent)
    if data.startswith(_PNG):
        _check_chunks(data)
    return RgbImage(np.ascontiguousarray(_decode_with_opencv(data)))


@dataclass(frozen=True, slots=True)
class _Header:
    size: tuple[int, int]  # (H, W) as stored, before orientation
    orientation: int
    is_plain_jpeg: bool


def _read_header(data: bytes) -> _Header:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
            plain = image.format == "JPEG" and image.mode in ("L", "RGB")
            return _Header((image.height, image.width), orientation, plain)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image is too large to decode safely: {error}") from error
    except UnidentifiedImageError as error:
        raise UnsupportedFormat(
            "not an image this service reads; send JPEG, PNG, BMP or TIFF"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, Warning, OverflowError) as error:
        raise CorruptImage(f"the image's header is damaged: {error}") from error


def _check_size(size: tuple[int, int], encoded: int, limits: ImageLimits) -> None:
    height, width = size
    if min(height, width) < limits.min_side_px:
        raise ImageTooSmall(
            f"the image is {width}×{height} px; each side needs at least {limits.min_side_px} px"
        )
    if height * width > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width}×{height} px, more than the limit of {limits.max_pixels} pixels; "
            "crop or reduce it before sending"
        )
    decoded = 3 * height * width
    if decoded > max(_HARMLESS_BYTES, limits.max_ratio * encoded):
        raise ImageTooLarge(
            f"{encoded} bytes would decode to {decoded}: more than an image of a part needs; send "
            "it less compressed, or smaller"
        )


def _reduced(size: tuple[int, int], canvas: int | None) -> tuple[int, int]:
    """(H, W) to decode a JPEG to: by powers of two, which libjpeg-turbo does fast."""
    for factor in (8, 4, 2):
        least = -(-size[0] // factor), -(-size[1] // factor)
        if canvas is not None and min(least) >= _SPARE * canvas:
            return least
    return size


def _decode_jpeg(data: bytes, least: tuple[int, int]) -> np.ndarray:
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=least[0], min_width=least[1], strict=True
        )
    except ValueError as error:
        raise CorruptImage(f"the JPEG is truncated or damaged: {error}") from error
    return pixels


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG with a chunk longer than the file: OpenCV allocates what a chunk claims, up to 4 GB."""
    start = len(_PNG)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        start += 12 + length  # length, kind, content, checksum
        if kind == b"IEND":
            return
    raise CorruptImage("the PNG is truncated, or a chunk of it is longer than the file")


def _decode_with_opencv(data: bytes) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH  # keeps 16 bit, applies EXIF, drops alpha
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise CorruptImage("the image is truncated or damaged") from error
    if bgr is None:
        raise CorruptImage("the image is truncated, damaged, or of a kind that is not supported")
    if bgr.dtype not in (np.uint8, np.uint16):
        raise UnsupportedFormat(f"pixels of type {bgr.dtype}; send 8 or 16 bits per channel")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1–8 (an unknown value means upright)."""
    if orientation in (2, 4, 5, 7):  # mirrored kinds: mirror first, then turn as the sibling
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(pixels, quarter_turns)
