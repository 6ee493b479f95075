"""TIFF to pixels: what the file says, or an error that names what is not read.

Strips and tiles, both byte orders, BigTIFF, one plane or several, 1, 8 and 16 bits, and 9 to 15
packed ones: those come out as they were stored, in 16 bits, so that one `white_level` fits packed
and unpacked. Alpha is dropped, never multiplied. Reduced copies are skipped; a second page is
refused, because a page that nobody inspects must not be called good.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly.directory import Directory, read_below, read_directories
from anomaly.errors import CorruptImage, UnsupportedFormat
from anomaly.jpeg import cmyk_to_rgb
from anomaly.limits import ImageLimits, check_size
from anomaly.orientation import ORIENTATION_TAG, orientation_of, tagged_orientation, upright
from anomaly.segments import COMPRESSIONS, Segments, read_planes
from anomaly.types import RgbImage

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS = 254, 255, 256, 257, 258
_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES = 259, 262, 266, 277
_PREDICTOR, _PALETTE, _INK_SET, _FORMAT, _XMP = 317, 320, 332, 339, 700
_REDUCED, _TRANSPARENCY = 1, 4  # bits of the subfile's type
_OLD_REDUCED = 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INDEXED, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _INDEXED: 1, _SEPARATED: 4, _YCBCR: 3}
_COLOUR_NAMES = {4: "a transparency mask", 8: "CIE L*a*b* colours", 9: "ICC L*a*b* colours",
                 10: "ITU L*a*b* colours", 32803: "a raw colour mosaic (CFA)",
                 32844: "LogL values", 32845: "LogLuv values",
                 34892: "raw linear values"}  # fmt: skip
_NUMBERS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers",
            6: "complex numbers"}  # fmt: skip
_SAVE_AS = (
    "save it as grey or RGB with 8 or 16 bits (unsigned integers), uncompressed, LZW or deflate"
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a picture's samples are to be understood."""

    colours: int  # the photometric interpretation
    samples: int
    bits: int
    compression: int


def read_tiff(data: bytes, limits: ImageLimits) -> RgbImage:
    """Decode the one picture of a TIFF."""
    page = _picture(data)
    size = page.integer(_HEIGHT, 0), page.integer(_WIDTH, 0)
    kind = _kind(page)
    check_size(size, len(data), limits, sample_bytes=2 if kind.bits > 8 else 1)
    segments = Segments.of(
        page,
        size,
        samples=kind.samples,
        bits=kind.bits,
        compression=kind.compression,
        is_rgb=kind.colours == _RGB,
    )
    pixels = _rgb(read_planes(segments), kind, page)
    tagged = ORIENTATION_TAG in page
    orientation = tagged_orientation(page) if tagged else orientation_of(b"", page.content(_XMP))
    return RgbImage(np.ascontiguousarray(upright(pixels, orientation)))


def _picture(data: bytes) -> Directory:
    """Return the directory of the one picture that is no reduced copy of another."""
    chain = list(read_directories(data))
    pages = [page for page in chain if not _is_reduced(page)]
    if len(pages) <= 1:
        pages += [page for parent, page in read_below(chain) if _is_full(page, parent)]
    if not pages and len(chain) == 1:
        return chain[0]
    if len(pages) != 1:
        raise UnsupportedFormat(f"the TIFF has {len(pages)} pages; send one image for each")
    return pages[0]


def _is_full(page: Directory, parent: Directory) -> bool:
    """Whether a picture below another is no reduced copy of it."""
    return not _is_reduced(page) and page.integer(_WIDTH, 0) >= parent.integer(_WIDTH, 0)


def _is_reduced(page: Directory) -> bool:
    if page.integer(_SUBFILE, 0) & (_REDUCED | _TRANSPARENCY):
        return True
    return page.integer(_OLD_SUBFILE, 0) == _OLD_REDUCED


def _kind(page: Directory) -> _Kind:
    """Say what the samples are. Raises `UnsupportedFormat`, which names what is not read."""
    bits, samples = _bits(page), page.integer(_SAMPLES, 1)
    colours, compression = page.integer(_PHOTOMETRIC, -1), page.integer(_COMPRESSION, 1)
    if colours not in _COLOURS:
        name = _COLOUR_NAMES.get(colours, f"photometric interpretation {colours}")
        raise _unsupported(name)
    if compression not in COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(compression, str(compression))
        raise _unsupported(f"compression {name}")
    if not _COLOURS[colours] <= samples <= _COLOURS[colours] + 1:
        raise _unsupported(f"{samples} bands")
    _refuse_depth(page, colours, bits)
    _refuse_layout(page, colours, bits=bits, compression=compression)
    return _Kind(colours, samples, bits, compression)


_COMPRESSION_NAMES = {2: "CCITT (modified Huffman)", 3: "CCITT Group 3", 4: "CCITT Group 4",
                      6: "old-style JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
                      50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
                      33003: "JPEG 2000", 33005: "JPEG 2000"}  # fmt: skip


def _bits(page: Directory) -> int:
    bits = set(page.integers(_BITS).tolist()) or {1}
    if len(bits) > 1:
        raise _unsupported(f"samples of unequal depth {sorted(bits)}")
    return int(bits.pop())


def _refuse_depth(page: Directory, colours: int, bits: int) -> None:
    formats = set(page.integers(_FORMAT).tolist())
    for number, name in _NUMBERS.items():
        if number in formats:
            raise _unsupported(f"{bits}-bit {name}")
    if colours == _INDEXED:
        readable = bits in (1, 2, 4, 8)
    elif colours in (_SEPARATED, _YCBCR):
        readable = bits == 8
    else:
        readable = 8 <= bits <= 16 or (bits == 1 and colours != _RGB)
    if not readable:
        what = {_RGB: "colour", _INDEXED: "palette"}.get(colours, "grey")
        raise _unsupported(f"{bits}-bit {what} (unsigned integers)")


def _refuse_layout(page: Directory, colours: int, *, bits: int, compression: int) -> None:
    is_jpeg = compression == 7
    if page.integer(_FILL_ORDER, 1) != 1:
        raise _unsupported("bits in reversed order (FillOrder 2)")
    if colours == _YCBCR and not is_jpeg:
        raise _unsupported("YCbCr colours without JPEG compression")
    if is_jpeg and (bits != 8 or colours in (_SEPARATED, _INDEXED)):
        raise _unsupported(f"JPEG compression of {bits}-bit CMYK, palette or deep colours")
    if colours == _SEPARATED and page.integer(_INK_SET, 1) != 1:
        raise _unsupported("inks other than CMYK")
    predictor = page.integer(_PREDICTOR, 1)
    if not is_jpeg and (predictor not in (1, 2) or (predictor == 2 and bits not in (8, 16))):
        raise _unsupported(f"predictor {predictor} with {bits} bits")


def _rgb(stored: NDArray[np.generic], kind: _Kind, page: Directory) -> np.ndarray:
    """Turn samples (H, W, C) into RGB (H, W, 3), dropping alpha."""
    samples = np.asarray(stored)[..., : _COLOURS[kind.colours]]
    if kind.colours == _INDEXED:
        return _palette(page, kind.bits)[samples[..., 0]]
    if kind.colours == _SEPARATED:
        return cmyk_to_rgb(np.bitwise_not(samples))
    if kind.colours == _WHITE_IS_ZERO:
        samples = np.subtract((1 << kind.bits) - 1, samples, dtype=samples.dtype)
    if kind.bits == 1:
        samples = samples * np.uint8(255)
    return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _palette(page: Directory, bits: int) -> NDArray[np.uint8]:
    """(2^bits, 3) colours of 8 bits; they are stored with 16, by old writers with 8."""
    colours = page.integers(_PALETTE)
    if len(colours) != 3 << bits:
        raise CorruptImage("the TIFF's palette is damaged")
    deep = bool((colours > 255).any())
    return (colours >> 8 if deep else colours).astype(np.uint8).reshape(3, -1).T


def _unsupported(what: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"a TIFF with {what} is not read; {_SAVE_AS}")
