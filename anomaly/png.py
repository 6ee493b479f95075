"""PNG to pixels. Size and orientation are known from its chunks, every checksum is verified.

OpenCV sees only the chunks that make the picture: no text or profile to inflate, no transparency
(alpha is dropped, but of marks), no second frame.
"""

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import CorruptImage, UnsupportedFormat
from anomaly.limits import ImageLimits, check_size
from anomaly.orientation import orientation_of, upright
from anomaly.types import RgbImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 100_000
_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_MARKS = (*_PICTURE, b"tRNS")
_XMP = b"XML:com.adobe.xmp\0\0\0"  # followed by two empty texts: not compressed
_HEADER_END = 33
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def read_png(data: bytes, limits: ImageLimits) -> RgbImage:
    """Decode a PNG of any depth, colour type and interlace: 16 bits stay 16 bits."""
    width, height, bits = _header(data)
    check_size((height, width), len(data), limits, sample_bytes=2 if bits == 16 else 1)
    picture, exif, xmp = _needed_chunks(data)
    pixels = _decode(picture)
    return RgbImage(np.ascontiguousarray(upright(pixels, orientation_of(exif, xmp))))


def png_size(data: bytes) -> tuple[int, int]:
    """(H, W) of a PNG as it lies in the file, by its header alone; raises `ImageError`."""
    if not data.startswith(SIGNATURE):
        raise UnsupportedFormat("this is no PNG")
    width, height, _ = _header(data)
    return height, width


def read_marks(data: bytes, limits: ImageLimits) -> NDArray[np.bool_]:
    """Say which pixels of a PNG somebody painted, (H, W), turned upright.

    Those of any colour but black that are not wholly transparent, of any depth and colour type; one
    transparent value of plain grey is not looked at. Raises `ImageError`.
    """
    height, width = png_size(data)
    bits = data[24]
    check_size((height, width), len(data), limits, sample_bytes=2 if bits == 16 else 1)
    picture, exif, xmp = _needed_chunks(data, _MARKS)
    pixels = _imdecode(picture, cv2.IMREAD_UNCHANGED)  # (H, W), (H, W, 3) or, with alpha, (H, W, 4)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    marks = (pixels[..., :3] != 0).any(axis=2)
    if pixels.shape[2] == 4:
        marks &= pixels[..., 3] != 0
    return np.ascontiguousarray(upright(marks, orientation_of(exif, xmp)))


def with_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Write texts into a PNG by keyword, as `iTXt`; readers of pictures pass over them."""
    chunks = (
        _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode())
        for keyword, text in texts.items()
    )
    return png[:_HEADER_END] + b"".join(chunks) + png[_HEADER_END:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _header(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits) of the header, which must come first."""
    if len(data) < _HEADER_END or data[8:16] != b"\0\0\0\x0dIHDR":
        if data[12:16] == b"CgBI":
            raise UnsupportedFormat("an iOS-optimised PNG is not read; save it as an ordinary PNG")
        raise CorruptImage("the PNG's header is truncated or damaged")
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise CorruptImage("the PNG's header is damaged: its checksum differs")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return width, height, bits


def _needed_chunks(data: bytes, needed: Collection[bytes] = _PICTURE) -> tuple[bytes, bytes, bytes]:
    """Return the picture's chunks as a PNG of their own, and the content of EXIF and XMP."""
    parts, is_whole, exif, xmp = [SIGNATURE], True, b"", b""
    for kind, start, end in _chunks(data):
        if kind in needed:
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
    bgr = _imdecode(data, _FLAGS)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise CorruptImage("the PNG is truncated or damaged") from error
    if pixels is None:
        raise CorruptImage("the PNG is truncated or damaged")
    return pixels
