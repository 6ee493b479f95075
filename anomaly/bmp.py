"""BMP to pixels: size, depth and compression are known from the header; OpenCV does the rest."""

import struct

import cv2
import numpy as np

from anomaly.errors import CorruptImage, UnsupportedFormat
from anomaly.limits import ImageLimits, check_size
from anomaly.types import RgbImage

_CORE_BYTES = 12  # the header of OS/2, with sides of 16 bits
_PLAIN, _MASKED = (0, 3, 6), (3, 6)  # uncompressed, with or without masks of the colours' bits
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF)
_COMPRESSIONS = {1: "run-length encoding", 2: "run-length encoding", 4: "JPEG", 5: "PNG"}
_DEPTHS = (1, 4, 8, 24, 32)


def read_bmp(data: bytes, limits: ImageLimits) -> RgbImage:
    """Decode an uncompressed BMP; alpha is dropped."""
    height, width, bits = _header(data)
    check_size((abs(height), width), len(data), limits)
    (offset,) = struct.unpack_from("<I", data, 10)
    row_bytes = (width * bits + 31) // 32 * 4
    if offset + row_bytes * abs(height) > len(data):
        raise CorruptImage("the BMP is truncated: its rows end beyond the file")
    bgr = _decode(data)
    if bgr.shape[:2] != (abs(height), width):
        raise CorruptImage("the BMP is damaged: its pixels are not of its header's size")
    rgb: np.ndarray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return RgbImage(rgb)


def _header(data: bytes) -> tuple[int, int, int]:
    """(height, width, bits per pixel); a negative height means that the top row comes first."""
    try:
        (header_bytes,) = struct.unpack_from("<I", data, 14)
        if header_bytes == _CORE_BYTES:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            compression = 0
        else:
            width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    except struct.error as error:
        raise CorruptImage("the BMP's header is truncated") from error
    if compression not in _PLAIN:
        name = _COMPRESSIONS.get(compression, f"compression {compression}")
        raise UnsupportedFormat(f"a BMP with {name} is not read; save it uncompressed, or as PNG")
    masked = compression in _MASKED and data[54:66] != struct.pack("<3I", *_USUAL_MASKS)
    if bits == 16 or masked:
        raise UnsupportedFormat(
            f"a {bits}-bit BMP of unusual colours is not read; save it with 24 bits, or as PNG"
        )
    if bits not in _DEPTHS or width <= 0 or height == 0:
        raise CorruptImage(f"the BMP's header is damaged: {width}×{height} px of {bits} bits")
    return height, width, bits


def _decode(data: bytes) -> np.ndarray:
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise CorruptImage("the BMP is damaged") from error
    if bgr is None:
        raise CorruptImage("the BMP is damaged, or of a kind that is not read; save it as PNG")
    return bgr
