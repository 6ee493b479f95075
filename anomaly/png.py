"""PNG to pixels. Size and orientation are known from its chunks, every checksum is verified.

OpenCV sees only the chunks that make the picture: no text or profile to inflate, no transparency
(alpha is dropped), no second frame.
"""

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from anomaly.errors import CorruptImage, UnsupportedFormat
from anomaly.limits import ImageLimits, check_size
from anomaly.orientation import orientation_of, upright
from anomaly.types import RgbImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000
_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_XMP = b"XML:com.adobe.xmp\0\0\0"  # followed by two empty texts: not compressed
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def read_png(data: bytes, limits: ImageLimits) -> RgbImage:
    """Decode a PNG of any depth, colour type and interlace: 16 bits stay 16 bits."""
    width, height, bits = _header(data)
    check_size((height, width), len(data), limits, sample_bytes=2 if bits == 16 else 1)
    picture, exif, xmp = _needed_chunks(data)
    pixels = _decode(picture)
    return RgbImage(np.ascontiguousarray(upright(pixels, orientation_of(exif, xmp))))


def _header(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits) of the header, which must come first."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\x0dIHDR":
        if data[12:16] == b"CgBI":
            raise UnsupportedFormat("an iOS-optimised PNG is not read; save it as an ordinary PNG")
        raise CorruptImage("the PNG's header is truncated or damaged")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise CorruptImage("the PNG's header is damaged: its checksum differs")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return width, height, bits


def _needed_chunks(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the picture's chunks as a PNG of their own, and the content of EXIF and XMP."""
    parts, is_whole, exif, xmp = [SIGNATURE], True, b"", b""
    for kind, start, end in _chunks(data):
        if kind in _PICTURE:
            parts.append(data[start - 8 : end + 4])
            continue
        is_whole = False
        if kind[:1].isupper():
            raise UnsupportedFormat(f"a PNG with the chunk {kind!r} is not read; save it anew")
        if kind == b"acTL":
            _refuse_frames(data[start:end])
        elif kind == b"eXIf":
            exif = data[start:end].removeprefix(b"Exif\0\0")
        elif kind == b"iTXt" and data.startswith(_XMP, start):
            xmp = data[start:end]
    return data if is_whole else b"".join(parts), exif, xmp


def _refuse_frames(content: bytes) -> None:
    frames = int.from_bytes(content[:4], "big")
    if frames > 1:
        raise UnsupportedFormat(f"the PNG has {frames} frames; send one image for each")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of each chunk's content, checksums verified, up to the end chunk."""
    start, view = len(SIGNATURE), memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if start + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise CorruptImage(f"the PNG is damaged: the checksum of {kind!r} differs")
        yield kind, start + 8, end
        if kind == b"IEND":
            return
        start = end + 4
    raise CorruptImage("the PNG is truncated, or a chunk of it is longer than the file")


def _decode(data: bytes) -> np.ndarray:
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
    except cv2.error as error:
        raise CorruptImage("the PNG is truncated or damaged") from error
    if bgr is None:
        raise CorruptImage("the PNG is truncated or damaged")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)
