"""The strips and tiles of a TIFF to samples (H, W, C): strict, each must give exactly its pixels.

Knows compressions, predictors and byte order; knows nothing of colours. What is missing or left over is
damage. LZW is libtiff's, by way of Pillow, which is told of every error: of the libraries at hand it alone
survives any bytes.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from anomaly.directory import Directory
from anomaly.errors import CorruptImage, UnsupportedFormat
from anomaly.jpeg import check_scans, decode_segment, read_header

_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _JPEG_TABLES = 278, 284, 317, 347
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS, _OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
COMPRESSIONS = (_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS, _OLD_DEFLATE)
_MAX_SEGMENTS = 200_000
_AT_ONCE = 1 << 19  # packed integers
_SEPARATE = 2
_LZW_END = 257
_TAIL = bytes((0xA7, 0x11, 0xE3, 0x5C))


@dataclass(frozen=True, slots=True)
class Segments:
    """Where a picture of `size` (H, W) lies in the file: a grid of segments, for each plane one."""

    page: Directory
    size: tuple[int, int]
    samples: int  # of a segment's pixel
    planes: int
    bits: int
    compression: int
    is_rgb: bool
    step: tuple[int, int]  # (H, W) of a segment
    is_tiled: bool
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        page: Directory,
        size: tuple[int, int],
        *,
        samples: int,
        bits: int,
        compression: int,
        is_rgb: bool,
    ) -> "Segments":
        """Read the layout. Raises `CorruptImage` where it does not fit the picture's size."""
        is_tiled = _TILE_WIDTH in page
        separate = page.integer(_PLANAR, 1) == _SEPARATE and samples > 1
        planes = samples if separate else 1
        step = _step(page, size, is_tiled=is_tiled)
        starts = page.integers(_TILES if is_tiled and _TILES in page else _STRIPS)
        lengths = page.integers(_TILE_BYTES if is_tiled and _TILE_BYTES in page else _STRIP_BYTES)
        if compression == _JPEG and samples // planes not in (1, 3):
            raise UnsupportedFormat(
                f"a TIFF with JPEG compression of {samples} bands is not read; leave alpha out"
            )
        count = -(-size[0] // step[0]) * -(-size[1] // step[1]) * planes
        if count > _MAX_SEGMENTS:
            raise UnsupportedFormat(
                f"the TIFF is cut into {count} strips or tiles; save it with larger ones"
            )
        if len(starts) != count or len(lengths) != count:
            raise CorruptImage("the TIFF is damaged: its strips or tiles do not fit its size")
        return cls(page, size, samples // planes, planes, bits, compression, is_rgb, step, is_tiled,
                   starts, lengths)  # fmt: skip

    def content(self, number: int) -> bytes:
        """Return a segment's bytes as they are stored."""
        start, length = int(self.starts[number]), int(self.lengths[number])
        if start <= 0 or length <= 0 or start + length > len(self.page.data):
            raise CorruptImage("the TIFF is truncated or damaged: a strip lies beyond the file")
        return self.page.data[start : start + length]


def read_planes(segments: Segments) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode all segments: (H, W, C), uint8 up to 8 bits and uint16 beyond. Raises `CorruptImage`."""
    (height, width), (rows, columns) = segments.size, segments.step
    dtype = np.uint8 if segments.bits <= 8 else np.uint16
    whole = np.empty((height, width, segments.samples * segments.planes), dtype)
    number = 0
    for plane in range(segments.planes):
        channels = slice(plane * segments.samples, (plane + 1) * segments.samples)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                target = whole[top : top + rows, left : left + columns, channels]
                block = _block(segments, number, target.shape[0])
                target[...] = block[: target.shape[0], : target.shape[1]]
                number += 1
    return whole


def _step(page: Directory, size: tuple[int, int], *, is_tiled: bool) -> tuple[int, int]:
    if is_tiled:
        step = page.integer(_TILE_HEIGHT, 0), page.integer(_TILE_WIDTH, 0)
        if not all(0 < side <= max(1024, 2 * max(size)) for side in step):
            raise CorruptImage(f"the TIFF is damaged: its tiles are {step[1]}×{step[0]} px")
        return step
    rows = page.integer(_ROWS_PER_STRIP, size[0])
    if rows <= 0:
        raise CorruptImage("the TIFF is damaged: its strips have no rows")
    return min(rows, size[0]), size[1]


def _block(segments: Segments, number: int, rows: int) -> np.ndarray:
    """Decode one segment, (R, columns, C); of a last strip `rows` or, from some writers, a whole one's."""
    content = segments.content(number)
    most = segments.step[0]
    least = most if segments.is_tiled else rows
    if segments.compression == _JPEG:
        return _by_jpeg(segments, content, (least, most))
    row_bytes = -(-segments.step[1] * segments.samples * segments.bits // 8)
    sizes = (least * row_bytes, most * row_bytes)
    plain = _decompressed(content, segments.compression, sizes)
    if segments.compression == _NONE and len(plain) > sizes[0]:
        plain = plain[: sizes[0]]
    if len(plain) not in sizes:
        raise CorruptImage(
            f"the TIFF is damaged: a strip or tile has {len(plain)} bytes in place of {sizes[0]}"
        )
    return _samples(segments, plain, len(plain) // row_bytes)


def _decompressed(content: bytes, compression: int, sizes: tuple[int, int]) -> bytes:
    """Decompress to one of two sizes; of what is too long no more than shows it."""
    if compression == _LZW:
        return _by_lzw(content, sizes)
    if compression == _PACKBITS:
        return _unpacked_runs(content, sizes[1])
    if compression in (_DEFLATE, _OLD_DEFLATE):
        return _inflated(content, sizes[1])
    return content


def _by_lzw(content: bytes, sizes: Sequence[int]) -> bytes:
    """Decompress LZW that ends after exactly one of so many bytes.

    libtiff stops when it has enough, so the end is moved behind a few bytes that are known: where they
    do not follow, codes are missing or left over.
    """
    longer = _lengthened(content)
    if longer is None:  # a writer that marks no end
        return _by_libtiff(content, sizes[0])
    for size in sorted(set(sizes)):
        plain = _by_libtiff(longer, size + len(_TAIL))
        if plain.endswith(_TAIL):
            return plain[:size]
    raise CorruptImage("the TIFF is damaged: a strip is longer than its rows")


def _lengthened(content: bytes) -> bytes | None:
    """Put `_TAIL` behind LZW data; None where their last code is not the end's."""
    body = content.rstrip(b"\0")
    last = int.from_bytes(body[-3:], "big")
    unused = (last & -last).bit_length() - 1  # bits behind the last one that is set
    if len(body) < 4 or (last >> unused) & 0x1FF != _LZW_END:
        return None
    # However wide the code is, without its last bit the end is the code that clears the table.
    bits, count = (last >> unused) - 1, 24 - unused
    for code in (*_TAIL, _LZW_END):
        bits, count = (bits << 9) | code, count + 9
    padding = -count % 8
    return body[:-3] + (bits << padding).to_bytes((count + padding) // 8, "big")


def _by_libtiff(content: bytes, size: int) -> bytes:
    """Decompress LZW as the one strip of a grey picture of one row, whose pixels are the bytes."""
    tags = {256: size, 257: 1, 258: 8, 259: _LZW, 262: 1, _STRIPS: 8 + 2 + 9 * 12 + 4, 277: 1,
            _ROWS_PER_STRIP: 1, _STRIP_BYTES: len(content)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(head + content)) as picture:
            return picture.tobytes()
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptImage(
            f"the TIFF is damaged: a strip cannot be decompressed: {error}"
        ) from error


def _unpacked_runs(content: bytes, most: int) -> bytes:
    """Decompress PackBits: runs of one byte repeated, and of bytes as they are."""
    plain, position, end = bytearray(), 0, len(content)
    while position < end and len(plain) <= most:
        control = content[position]
        if control < 128:
            plain += content[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            plain += content[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1  # no operation
    if position > end:
        raise CorruptImage("the TIFF is damaged: the last run of a strip is longer than the strip")
    return bytes(plain)


def _inflated(content: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(content, most + 1)
    except zlib.error as error:
        raise CorruptImage(f"the TIFF is damaged: a strip cannot be inflated: {error}") from error
    if not inflater.eof:  # the checksum stands at the end
        raise CorruptImage("the TIFF is damaged: a strip's compressed data do not end")
    return plain


def _samples(segments: Segments, plain: bytes, rows: int) -> np.ndarray:
    """Take bytes apart into samples (rows, columns, C) and undo the predictor."""
    columns, per_pixel, bits = segments.step[1], segments.samples, segments.bits
    if bits in (8, 16):
        stored = np.frombuffer(plain, "u1" if bits == 8 else segments.page.order + "u2")
        native = stored.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    else:
        native = _unpacked_bits(np.frombuffer(plain, np.uint8).reshape(rows, -1), bits,
                                columns * per_pixel)  # fmt: skip
    block = native.reshape(rows, columns, per_pixel)
    if segments.page.integer(_PREDICTOR, 1) == 2:
        return np.cumsum(block, axis=1, dtype=block.dtype)
    return block


def _unpacked_bits(packed: NDArray[np.uint8], bits: int, count: int) -> np.ndarray:
    """Take rows of packed integers apart: (rows, bytes) to (rows, count)."""
    wide = 8 if bits <= 8 else 16
    whole = np.empty((len(packed), count), np.uint8 if wide == 8 else np.uint16)
    together = max(1, _AT_ONCE // count)  # rows: a bit takes a byte meanwhile
    for top in range(0, len(packed), together):
        each = np.unpackbits(packed[top : top + together], axis=1, count=count * bits)
        padded = np.zeros((len(each) * count, wide), np.uint8)
        padded[:, wide - bits :] = each.reshape(-1, bits)
        integers = np.packbits(padded).view(np.uint8 if wide == 8 else ">u2")
        whole[top : top + together] = integers.reshape(-1, count)
    return whole


def _by_jpeg(segments: Segments, content: bytes, rows: tuple[int, int]) -> np.ndarray:
    data = _with_tables(content, segments.page.content(_JPEG_TABLES), is_rgb=segments.is_rgb)
    header = read_header(data)
    columns = segments.step[1]
    if header.size not in ((rows[0], columns), (rows[1], columns)):
        raise CorruptImage("the TIFF is damaged: a JPEG strip is not of the strip's size")
    if header.components != segments.samples:
        raise CorruptImage("the TIFF is damaged: a JPEG strip has other components than the image")
    if header.has_scans:
        check_scans(data, header.scan_start, segments.size[0] * segments.size[1])
    pixels = decode_segment(data, header.size, grey=segments.samples == 1)
    return pixels.reshape(*header.size, segments.samples)


def _with_tables(content: bytes, tables: bytes, *, is_rgb: bool) -> bytes:
    """Make a JPEG of its own of a strip: with the file's tables, and its colours declared."""
    if content[:2] != b"\xff\xd8":
        raise CorruptImage("the TIFF is damaged: a JPEG strip does not begin as one")
    transform = b"\0" if is_rgb else b"\1"  # Adobe's mark: 0 is RGB, 1 is YCbCr
    mark = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + transform
    return b"\xff\xd8" + mark + tables[2:-2] + content[2:]
