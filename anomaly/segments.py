"""The strips and tiles of a TIFF to samples (H, W, C): strict, each must give exactly its pixels.

Knows compressions, predictors and byte order; knows nothing of colours. What is missing or left
over is damage. LZW and PackBits are libtiff's, by way of Pillow, which is told of every error: of
the libraries at hand it alone survives any bytes.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice

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
_MAX_SEGMENTS = 100_000
_TOGETHER_BYTES = 16_000_000  # decompressed by one call of libtiff
_AT_ONCE = 1 << 19  # packed integers
_SEPARATE = 2
_LZW_END = 257
_TAIL = bytes((0xA7, 0x11, 0xE3, 0x5C))
_TAIL_RUN = b"\x03" + _TAIL  # as PackBits


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

    def rows(self, number: int) -> tuple[int, int]:
        """Rows of a segment: a plane's last strip has the rest or, from some writers, all rows."""
        height, step = self.size[0], self.step[0]
        across, down = -(-self.size[1] // self.step[1]), -(-height // step)
        top = number % (across * down) // across * step
        return step if self.is_tiled else min(step, height - top), step

    @property
    def row_bytes(self) -> int:
        """Bytes of a segment's row, decompressed."""
        return -(-self.step[1] * self.samples * self.bits // 8)


def read_planes(segments: Segments) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode all segments: (H, W, C), uint8 to 8 bits, uint16 beyond. Raises `CorruptImage`."""
    (height, width), (rows, columns) = segments.size, segments.step
    dtype = np.uint8 if segments.bits <= 8 else np.uint16
    pixels = np.empty((height, width, segments.samples * segments.planes), dtype)
    blocks = _by_jpeg(segments) if segments.compression == _JPEG else _by_bytes(segments)
    for plane in range(segments.planes):
        channels = slice(plane * segments.samples, (plane + 1) * segments.samples)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                target = pixels[top : top + rows, left : left + columns, channels]
                block = next(blocks, None)
                if block is None:
                    raise CorruptImage("the TIFF has fewer strips or tiles than its size needs")
                target[...] = block[: target.shape[0], : target.shape[1]]
    return pixels


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


def _by_bytes(segments: Segments) -> Iterator[np.ndarray]:
    """Yield the samples of each segment, (R, columns, C)."""
    row_bytes = segments.row_bytes
    for rows, group in groupby(range(len(segments.starts)), segments.rows):
        sizes = rows[0] * row_bytes, rows[1] * row_bytes
        together = max(1, _TOGETHER_BYTES // sizes[1])
        while numbers := list(islice(group, together)):
            contents = [segments.content(number) for number in numbers]
            for plain in _decompressed(contents, segments.compression, sizes):
                yield _samples(segments, plain, len(plain) // row_bytes)


def _decompressed(
    contents: list[bytes], compression: int, sizes: tuple[int, int]
) -> Iterator[bytes]:
    """Decompress each to one of two sizes. Raises `CorruptImage` where it is neither."""
    if compression in (_LZW, _PACKBITS):
        yield from _exactly(contents, compression, sizes)
        return
    for content in contents:
        plain = content[: sizes[0]] if compression == _NONE else _inflated(content, sizes[1])
        if len(plain) not in sizes:
            raise CorruptImage(
                f"the TIFF is damaged: a strip or tile has {len(plain)} bytes, not {sizes[0]}"
            )
        yield plain


def _exactly(contents: list[bytes], compression: int, sizes: Sequence[int]) -> list[bytes]:
    """Decompress LZW or PackBits that end after exactly one of so many bytes.

    libtiff stops when it has enough, so the end is moved behind a few bytes that are known: where
    they do not follow, something is missing or left over.
    """
    longer = [_lengthened(c) if compression == _LZW else c + _TAIL_RUN for c in contents]
    full = [content for content in longer if content is not None]
    if len(full) < len(longer):  # a writer that marks no end
        return _by_libtiff(contents, compression, sizes[0])
    for size in sorted(set(sizes)):
        plain = _by_libtiff(full, compression, size + len(_TAIL))
        if all(strip.endswith(_TAIL) for strip in plain):
            return [strip[:size] for strip in plain]
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


def _by_libtiff(contents: list[bytes], compression: int, size: int) -> list[bytes]:
    """Decompress each to `size` bytes, as the one-row strips of a grey picture of 8 bits."""
    count = len(contents)
    lists_at = 8 + 2 + 9 * 12 + 4
    lengths = [len(content) for content in contents]
    first = lists_at + (8 * count if count > 1 else 0)
    starts = [first + before for before in accumulate(lengths[:-1], initial=0)]
    lists = struct.pack(f"<{2 * count}I", *starts, *lengths) if count > 1 else b""
    where = (lists_at, lists_at + 4 * count) if count > 1 else (starts[0], lengths[0])
    tags = ((256, 1, size), (257, 1, count), (258, 1, 8), (259, 1, compression), (262, 1, 1),
            (_STRIPS, count, where[0]), (277, 1, 1), (_ROWS_PER_STRIP, 1, 1),
            (_STRIP_BYTES, count, where[1]))  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, many, value) for tag, many, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + lists
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(b"".join((head, *contents)))) as picture:
            rows = picture.tobytes()
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptImage(
            f"the TIFF is damaged: a strip cannot be decompressed: {error}"
        ) from error
    return [rows[start : start + size] for start in range(0, count * size, size)]


def _inflated(content: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(content, limit + 1)
    except zlib.error as error:
        raise CorruptImage(f"the TIFF is damaged: a strip cannot be inflated: {error}") from error
    if not inflater.eof:  # the checksum is at the end
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
    values = np.empty((len(packed), count), np.uint8 if wide == 8 else np.uint16)
    together = max(1, _AT_ONCE // count)  # rows: a bit takes a byte for the time being
    for top in range(0, len(packed), together):
        bit_rows = np.unpackbits(packed[top : top + together], axis=1, count=count * bits)
        padded = np.zeros((len(bit_rows) * count, wide), np.uint8)
        padded[:, wide - bits :] = bit_rows.reshape(-1, bits)
        integers = np.packbits(padded).view(np.uint8 if wide == 8 else ">u2")
        values[top : top + together] = integers.reshape(-1, count)
    return values


def _by_jpeg(segments: Segments) -> Iterator[np.ndarray]:
    """Yield the samples of each segment, (R, columns, C), from JPEGs."""
    for number in range(len(segments.starts)):
        yield _of_jpeg(segments, segments.content(number), segments.rows(number))


def _of_jpeg(segments: Segments, content: bytes, rows: tuple[int, int]) -> np.ndarray:
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
    """Make a complete JPEG of a strip: with the file's tables, and its colours declared."""
    if content[:2] != b"\xff\xd8":
        raise CorruptImage("the TIFF is damaged: a JPEG strip does not begin as one")
    transform = b"\0" if is_rgb else b"\1"  # Adobe's mark: 0 is RGB, 1 is YCbCr
    mark = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + transform
    return b"\xff\xd8" + mark + tables[2:-2] + content[2:]
