"""PNG: every depth, colour type and interlace; the header suffices, nothing else is inflated."""

import io
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from anomaly.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from anomaly.image import decode_image, decode_mask
from anomaly.limits import MASK_LIMITS
from anomaly.png import png_size, read_marks, with_texts
from tests.conftest import normal_pixels, png

RGB = normal_pixels(1, (72, 96))
GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, INDEXED: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOUR: (8, 16), INDEXED: (1, 2, 4, 8)}
DEPTHS |= {GREY_ALPHA: (8, 16), COLOUR_ALPHA: (8, 16)}
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def rows(samples: np.ndarray, bits: int) -> bytes:
    """Unfiltered rows of samples (H, W, C), packed."""
    flat = samples.reshape(len(samples), -1)
    if bits >= 8:
        packed = flat.astype(">u2" if bits == 16 else "u1").view(np.uint8).reshape(len(flat), -1)
    else:
        each = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(each.astype(np.uint8).reshape(len(flat), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def written(
    samples: np.ndarray, colour: int, bits: int, *, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    height, width = samples.shape[:2]
    parts = PASSES if interlaced else ((0, 0, 1, 1),)
    body = b"".join(rows(samples[t::down, left::right], bits) for t, left, down, right in parts)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "bits"), [(colour, bits) for colour, depths in DEPTHS.items() for bits in depths]
)
def test_every_kind_of_png_gives_its_pixels_back(colour: int, bits: int, interlaced: bool) -> None:
    generator = np.random.default_rng(bits)
    samples = generator.integers(0, 1 << bits, (72, 96, CHANNELS[colour]))
    palette = generator.integers(0, 256, (1 << bits, 3), dtype=np.uint8) if colour == 3 else None
    extra = b"" if palette is None else chunk(b"PLTE", palette.tobytes())
    decoded = decode_image(
        written(samples, colour, bits, interlaced=interlaced, extra=extra)
    ).pixels
    if palette is not None:
        want = palette[samples[..., 0]]
    else:
        colours = samples[..., : 3 if colour in (COLOUR, COLOUR_ALPHA) else 1]
        want = np.broadcast_to(colours * (255 // ((1 << bits) - 1) if bits < 8 else 1), RGB.shape)
    assert decoded.dtype == (np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(decoded, want)


@pytest.mark.parametrize("colour", [GREY, COLOUR, INDEXED])
def test_transparency_of_one_colour_changes_no_pixel(colour: int) -> None:
    samples = np.random.default_rng(0).integers(0, 4, (72, 96, CHANNELS[colour]))
    palette = chunk(b"PLTE", bytes(range(12))) if colour == INDEXED else b""
    clear = chunk(b"tRNS", bytes(4) if colour == INDEXED else bytes(2 * CHANNELS[colour]))
    bits = 2 if colour == INDEXED else 8
    plain = decode_image(written(samples, colour, bits, extra=palette)).pixels
    shown = decode_image(written(samples, colour, bits, extra=palette + clear)).pixels
    np.testing.assert_array_equal(shown, plain)


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"bKGD", b"sBIT"])
def test_what_is_said_about_colours_changes_no_pixel(kind: bytes) -> None:
    odd = written(RGB, COLOUR, 8, extra=chunk(kind, b"\0\0\1\0"))
    np.testing.assert_array_equal(decode_image(odd).pixels, RGB)


def test_several_frames_are_refused_and_one_is_read() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFormat, match="2 frames; send one image for each"):
        decode_image(buffer.getvalue())
    one = written(RGB, COLOUR, 8, extra=chunk(b"acTL", struct.pack(">II", 1, 0)))
    np.testing.assert_array_equal(decode_image(one).pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_the_chunk_alone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = written(RGB, COLOUR, 8, extra=chunk(b"eXIf", exif.tobytes()))
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_image(data).pixels, want)


def flat(side: int, bits: int, colour: int) -> bytes:
    """A picture of one value, as small as a file can be."""
    squeeze = zlib.compressobj(1)
    row = bytes(1 + -(-side * bits * CHANNELS[colour] // 8))
    body = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("bits", "colour"), [(1, GREY), (8, GREY)])
def test_a_png_that_is_too_large_is_refused_before_it_is_inflated(bits: int, colour: int) -> None:
    side = 13_300 if bits == 1 else 10_001
    data = flat(side, bits, colour)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ImageTooLarge, match=f"{side}×{side}"):
        decode_image(data)
    assert time.monotonic() - started < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_what_else_is_compressed_is_never_inflated(kind: bytes) -> None:
    bomb = zlib.compress(bytes(40_000_000), 1)
    middle = b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0"
    data = written(RGB, COLOUR, 8, extra=chunk(kind, middle + bomb) * 5)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    np.testing.assert_array_equal(decode_image(data).pixels, RGB)
    assert time.monotonic() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KB


def test_chunks_without_end_are_refused() -> None:
    started = time.monotonic()
    with pytest.raises(CorruptImage):
        decode_image(written(RGB, COLOUR, 8, extra=chunk(b"teXt", b"") * 1_000_000))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("lost", ["rows", "all", "checksum"])
def test_data_that_do_not_make_the_picture_are_corrupt_with_every_checksum_right(lost: str) -> None:
    body = zlib.compress(rows(RGB, 8))
    changed = {
        "rows": zlib.compress(rows(RGB[:40], 8)),
        "all": b"",
        "checksum": body[:-4] + bytes(4),
    }[lost]
    data = written(RGB, COLOUR, 8).replace(chunk(b"IDAT", body), chunk(b"IDAT", changed))
    with pytest.raises(CorruptImage):
        decode_image(data)


def test_a_png_sent_as_text_and_one_of_ios_are_named() -> None:
    with pytest.raises(CorruptImage, match="as text is"):
        decode_image(png(RGB).replace(b"\r\n", b"\n"))
    ios = png(RGB)[:8] + chunk(b"CgBI", bytes(4)) + png(RGB)[8:]
    with pytest.raises(UnsupportedFormat, match="iOS"):
        decode_image(ios)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmp_is_read_as_pillow_reads_it(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(buffer, "BMP")
    want = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()).pixels, want)


def bmp(compression: int = 0, bits: int = 24, height: int = 72) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 96, height, 1, bits, compression, 0, 0, 0, 0, 0)
    content = cv2.cvtColor(RGB, cv2.COLOR_RGB2BGR).tobytes()
    return b"BM" + struct.pack("<IHHI", 54 + len(content), 0, 0, 54) + head + content


def test_a_bmp_whose_top_row_comes_first_is_upright() -> None:
    np.testing.assert_array_equal(decode_image(bmp(height=-72)).pixels, RGB)
    np.testing.assert_array_equal(decode_image(bmp()).pixels, RGB[::-1])


@pytest.mark.parametrize(
    ("compression", "bits", "name"),
    [(1, 8, "run-length"), (2, 4, "run-length"), (4, 24, "JPEG"), (5, 24, "PNG"), (0, 16, "16-bit"),
     (3, 32, "unusual colours")],
)  # fmt: skip
def test_kinds_of_bmp_that_are_not_read_are_named(compression: int, bits: int, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name):
        decode_image(bmp(compression, bits))


@pytest.mark.parametrize("cut", [16, 30, 60, 20_000])
def test_a_bmp_without_its_end_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_image(bmp()[:cut])


@pytest.mark.parametrize("colours", [GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA])
def test_marks_are_what_is_neither_black_nor_transparent(colours: int) -> None:
    generator = np.random.default_rng(colours)
    painted, opaque = generator.random((2, 24, 31)) < 0.5
    samples = np.where(painted, 1, 0).astype(np.uint8)  # however little
    plain = {GREY: samples, INDEXED: samples, GREY_ALPHA: samples}
    channels = plain.get(colours, np.dstack([0 * samples, 0 * samples, samples]))
    if colours in (GREY_ALPHA, COLOUR_ALPHA):
        channels = np.dstack([channels, opaque.astype(np.uint8)])
        painted = painted & opaque
    image = Image.fromarray(channels)
    if colours == INDEXED:
        image = image.convert("P")
        image.putpalette([0, 0, 0, 0, 9, 0] + [0] * 762)
    file = io.BytesIO()
    image.save(file, "PNG")
    np.testing.assert_array_equal(read_marks(file.getvalue(), MASK_LIMITS), painted)
    assert png_size(file.getvalue()) == painted.shape
    for end in (8, 20, 40, len(file.getvalue()) - 5):
        with pytest.raises(CorruptImage):
            read_marks(file.getvalue()[:end], MASK_LIMITS)


def test_texts_stand_in_the_file_and_the_picture_stays() -> None:
    mask = png(np.eye(20, dtype=np.uint8) * 255)
    noted = with_texts(mask, {"Author": "Zoë 毛", "Comment": ""})
    with Image.open(io.BytesIO(noted)) as image:
        image.load()
        assert image.text == {"Author": "Zoë 毛", "Comment": ""}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode_mask(noted), np.eye(20, dtype=bool))
    np.testing.assert_array_equal(read_marks(noted, MASK_LIMITS), np.eye(20, dtype=bool))
