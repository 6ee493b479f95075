"""JPEG to pixels, by libjpeg-turbo in strict mode: whatever it warns of is an error.

Knows the markers up to the first scan, and how many scans follow: size, kind and work are known
before a pixel is decoded. Of a multi-picture file (MPO) the primary picture is read, as the file
says. JPEG carries no checksum: damage that decodes to as many blocks as before cannot be told from
a picture.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from anomaly.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from anomaly.limits import ImageLimits, check_size
from anomaly.orientation import orientation_of, upright, upright_size
from anomaly.types import RgbImage

# A reduced image is at least so many times the canvas, so that placing it averages still.
_SPARE = 2
_MAX_SEGMENTS = 5000  # before the first scan
_MAX_SCANS = 100  # encoders write 10 to 20
_MAX_WORK = 2_000_000_000  # pixels times scans; each visit of a pixel takes about a nanosecond
_SCAN, _END = 0xDA, 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_READ_FRAMES = (
    0xC0,
    0xC1,
    0xC2,
    0xC9,
    0xCA,
)  # baseline, extended, progressive; Huffman, arithmetic
_PROGRESSIVE = (0xC2, 0xCA)
_NOT_READ = {0xC3: "lossless JPEG", 0xF7: "JPEG-LS"}
_NOT_READ |= dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF), "hierarchical JPEG")
_NO_FILL = re.compile(rb"[^\xff]", re.DOTALL)
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_EXIF, _XMP = b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a JPEG says ahead of its first scan; `size` is (H, W) as stored."""

    size: tuple[int, int]
    components: int
    orientation: int
    scan_start: int
    has_scans: bool  # more than the first one: only then does the decoder look for them


def read_jpeg(data: bytes, limits: ImageLimits, canvas: int | None) -> RgbImage:
    """Decode a JPEG, at a half, a quarter or an eighth where that is enough for the canvas."""
    header = read_header(data)
    check_size(header.size, len(data), limits)
    if header.has_scans:
        check_scans(data, header.scan_start, header.size[0] * header.size[1])
    size = header.size
    if header.components == 4:
        # All inks are taken to be stored inverted, as Adobe does and every other reader assumes.
        pixels = cmyk_to_rgb(_decode(data, "CMYK", header.size))
    else:
        size = reduced(header.size, canvas)
        pixels = _decode(data, "RGB", size)
    sent = None if size == header.size else upright_size(header.size, header.orientation)
    return RgbImage(np.ascontiguousarray(upright(pixels, header.orientation)), sent)


def read_header(data: bytes) -> JpegHeader:
    """Read up to the first scan. Raises `CorruptImage` or `UnsupportedFormat`."""
    frame, start, end, exif, xmp, progressive = None, 0, 0, b"", b"", False
    for marker, start, end in _segments(data):
        if marker in _READ_FRAMES:
            frame, progressive = frame or _frame(data[start:end]), marker in _PROGRESSIVE
        elif marker in _NOT_READ:
            raise UnsupportedFormat(
                f"{_NOT_READ[marker]} is not read; send a baseline or progressive JPEG, or a PNG"
            )
        elif marker == 0xE1 and data.startswith(_EXIF, start):
            exif = exif or data[start + 6 : end]
        elif marker == 0xE1 and data.startswith(_XMP, start):
            xmp = xmp or data[start + len(_XMP) : end]
    if frame is None:
        raise CorruptImage("the JPEG has no frame ahead of its first scan; it is damaged")
    size, components = frame
    is_partial = data[start] < components  # the first scan has not all
    orientation = orientation_of(exif, xmp)
    return JpegHeader(size, components, orientation, end, has_scans=progressive or is_partial)


def check_scans(data: bytes, start: int, pixels: int) -> None:
    """Refuse a JPEG whose scans keep a decoder busy; `start` is behind the first scan's header.

    A progressive JPEG may hold any number, each legal, and each visits every pixel. Raises
    `ImageTooLarge`.
    """
    limit = min(_MAX_SCANS, max(1, _MAX_WORK // max(pixels, 1)))
    if data.count(b"\xff\xda", start) < limit:  # an upper bound, and fast
        return
    scans, position = 1, start
    while following := _NEXT_MARKER.search(data, position):
        marker, position = following[1][0], following.end()
        if marker == _END:
            return
        if marker not in _STANDALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        scans += marker == _SCAN
        if scans > limit:
            raise ImageTooLarge(
                f"the JPEG has more than {limit} scans over {pixels} pixels; save it as a baseline "
                "JPEG, or with an encoder's usual progression"
            )


def decode_segment(data: bytes, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """Decode a strip or tile of a TIFF, whose header was read: (H, W) or (H, W, 3) uint8."""
    return _decode(data, "GRAY" if grey else "RGB", size)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment's content up to the first scan's header."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        if data[position : position + 1] != b"\xff":
            break
        mark = _NO_FILL.search(data, position)
        marker, position = (mark[0][0], mark.end()) if mark else (_END, len(data))
        if marker in _STANDALONE:
            continue
        if marker == _END or position + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position)
        if length < (3 if marker == _SCAN else 2) or position + length > len(data):
            break
        yield marker, position + 2, position + length
        position += length
        if marker == _SCAN:
            return
    raise CorruptImage("the JPEG's header is truncated or damaged")


def _frame(content: bytes) -> tuple[tuple[int, int], int]:
    """((H, W), components) of a frame's header."""
    if len(content) < 6:
        raise CorruptImage("the JPEG's header is truncated or damaged")
    bits, height, width, components = struct.unpack_from(">BHHB", content)
    if bits != 8:
        raise UnsupportedFormat(f"a JPEG of {bits} bits is not read; send 8 bits, or a 16-bit PNG")
    if components not in (1, 3, 4):
        raise UnsupportedFormat(
            f"a JPEG of {components} components is not read; send grey, RGB or CMYK"
        )
    return (height, width), components


def reduced(size: tuple[int, int], canvas: int | None) -> tuple[int, int]:
    """(H, W) to decode a JPEG to: by powers of two, which libjpeg-turbo does fast."""
    for factor in (8, 4, 2):
        smaller = -(-size[0] // factor), -(-size[1] // factor)
        if canvas is not None and min(smaller) >= _SPARE * canvas:
            return smaller
    return size


def _decode(data: bytes, colours: str, min_size: tuple[int, int]) -> np.ndarray:
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace=colours, min_height=min_size[0], min_width=min_size[1], strict=True
        )
    except ValueError as error:
        raise CorruptImage(f"the JPEG is truncated or damaged: {error}") from error
    return pixels


def cmyk_to_rgb(light: np.ndarray) -> np.ndarray:
    """Turn (H, W, 4) uint8, of which 0 is full ink, into RGB: each ink's light times black's."""
    black = light[..., 3]
    channels = [cv2.multiply(light[..., i], black, scale=1 / 255) for i in range(3)]
    return cv2.merge(channels)
