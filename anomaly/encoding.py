"""How an image was encoded: format, size, depth, compression. Reads headers, decodes no pixel.

The quality of a JPEG is estimated from the standard table nearest to its luminance table
(Independent JPEG Group, 1 to 100); a camera with tables of its own gets the quality that quantises
as coarsely.
"""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly.jpeg import reduced
from anomaly.types import RgbImage

RAW = "RAW"  # pixels that came without a file
_OTHER_FORMAT = "OTHER"
# Stored by their index: add at the end only.
_KNOWN_FORMATS = (RAW, _OTHER_FORMAT, "JPEG", "PNG", "BMP", "TIFF", "WEBP", "JPEG2000", "AVIF")
LOSSLESS = 101  # takes the place of a quality; better than any
_SUBSAMPLINGS = {(1, 1): 444, (2, 1): 422, (2, 2): 420, (1, 2): 440, (4, 1): 411}
_GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Warning,
    OverflowError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One image's header.

    `quality` is 1 to 100, or `LOSSLESS`; `subsampling` is 444, 420 …, or 0 if it is no JPEG.
    `height` and `width` are those of the image as it is seen, turned upright.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int
    quality: int = LOSSLESS
    subsampling: int = 0

    def row(self) -> np.ndarray:
        """Return it as numbers, (7,) int32, to be stored beside evidence."""
        values = asdict(self) | {"format": _KNOWN_FORMATS.index(self.format)}
        return np.array(list(values.values()), np.int32)

    @classmethod
    def of_row(cls, row: np.ndarray) -> "Encoding":
        """Restore what `row` returned."""
        form, *numbers = (int(value) for value in row)
        return cls(_KNOWN_FORMATS[form], *numbers)


@dataclass(frozen=True, slots=True)
class Encodings:
    """What many images have in common: which values occurred, or the smallest and the largest."""

    formats: tuple[str, ...]
    heights: tuple[int, int]
    widths: tuple[int, int]
    aspects: tuple[float, float]
    channels: tuple[int, ...]
    bits: tuple[int, ...]
    qualities: tuple[int, int]
    subsamplings: tuple[int, ...]

    @classmethod
    def of(cls, encodings: Iterable[Encoding]) -> "Encodings":
        """Sum up one encoding or more."""
        listed = list(encodings)
        aspects = [encoding.width / encoding.height for encoding in listed]
        return cls(
            formats=tuple(sorted({encoding.format for encoding in listed})),
            heights=_ends(encoding.height for encoding in listed),
            widths=_ends(encoding.width for encoding in listed),
            aspects=(min(aspects), max(aspects)),
            channels=tuple(sorted({encoding.channels for encoding in listed})),
            bits=tuple(sorted({encoding.bits for encoding in listed})),
            qualities=_ends(encoding.quality for encoding in listed),
            subsamplings=tuple(sorted({encoding.subsampling for encoding in listed})),
        )


def _ends(values: Iterable[int]) -> tuple[int, int]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: (H, W) as stored, and how its pixels are packed."""

    format: str
    size: tuple[int, int]
    channels: int
    is_deep: bool
    is_progressive: bool
    quality: int = LOSSLESS
    subsampling: int = 0

    def decoded_bytes(self, canvas: int | None = None) -> int:
        """Bytes that decoding for a canvas will hold."""
        stored_pixels = self.size[0] * self.size[1]
        height, width = reduced(self.size, canvas) if self.format == "JPEG" else self.size
        pixels = 3 * height * width * (2 if self.is_deep else 1)
        # All coefficients of a progressive JPEG are held, at full size and two bytes each, before
        # any pixel.
        return pixels + (6 * stored_pixels if self.is_progressive else 0)


def read_header(source: bytes | Path) -> Header | None:
    """Read the header of an image; None of what is none, or of a kind that only another reads."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _header_of(image)
    except _UNREADABLE:
        return None


def _header_of(image: Image.Image) -> Header:
    quality, subsampling = LOSSLESS, 0
    if tables := getattr(image, "quantization", None):
        quality = _quality(np.array(tables[min(tables)]))
        subsampling = _subsampling(image)
    return Header(
        image.format if image.format in _KNOWN_FORMATS else _OTHER_FORMAT,
        (image.height, image.width),
        1 if image.mode in _GREY_MODES else 3,
        _is_deep(image),
        bool(image.info.get("progressive")),
        quality,
        subsampling,
    )


def encoding_of(header: Header | None, image: RgbImage, *, is_raw: bool = False) -> Encoding:
    """Describe an image by its header and what it was decoded to; `is_raw`: it came as pixels."""
    size, bits = image.source_size, 8 * image.pixels.dtype.itemsize
    if header is None:
        return Encoding(RAW if is_raw else _OTHER_FORMAT, *size, 3, bits)
    return Encoding(header.format, *size, header.channels, bits, header.quality, header.subsampling)


def _is_deep(image: Image.Image) -> bool:
    """Whether channels have 16 bits: Pillow opens these colours as 8, but names what it unpacks."""
    return image.mode in _SIXTEEN_BITS or ";16" in str(getattr(image, "tile", ""))


def _quality(table: np.ndarray) -> int:
    return int(np.abs(_LUMINANCES - np.sort(table)).sum(axis=1).argmin()) + 1


def _subsampling(image: Image.Image) -> int:
    layers = getattr(image, "layer", [])
    if len(layers) < 3:
        return 0
    (_, h, v, _), (_, h2, v2, _) = layers[0], layers[1]
    return _SUBSAMPLINGS.get((h // max(h2, 1), v // max(v2, 1)), 1)


def _luminances() -> np.ndarray:
    """Tables of qualities 1 to 100, (100, 64), each sorted: the order differs between readers."""
    standard = np.array(_STANDARD)
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = (standard[None] * scale[:, None] + 50) // 100
    return np.sort(np.clip(tables, 1, 255), axis=1)


# Annex K.1 of the JPEG standard, table K.1.
_STANDARD = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_LUMINANCES = _luminances()
