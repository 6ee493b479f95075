"""TIFF against arrays that are known: equal, or refused by its name."""

import contextlib
import io
import struct
import time
import zlib
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from anomaly.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from anomaly.image import ImageLimits, decode_image
from anomaly.preprocess import PreprocessConfig, place
from tests.conftest import normal_pixels

RGB = normal_pixels(1, (72, 96))
DEEP = np.random.default_rng(0).integers(0, 65536, RGB.shape, dtype=np.uint16)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips of 7 rows": {"rowsperstrip": 7},
    "strips of a row": {"rowsperstrip": 1},
    "tiles": {"tile": (16, 32)},
}


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def pages(*images: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, options in images:
            writer.write(pixels, metadata=None, **options)
    return buffer.getvalue()


def raw(
    tags: dict[int, tuple[int, tuple[int, ...]]],
    content: bytes,
    order: str = "<",
    big: bool = False,
) -> bytes:
    """A TIFF by {tag: (type, values)}. Tag 273, where strips begin, counts from `content`."""
    tags = dict(sorted(({273: (4, (0,))} | tags).items()))
    offset, codes = ("Q" if big else "I"), {1: "B", 2: "B", 3: "H", 4: "I"}
    width = struct.calcsize("<" + offset)
    head = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8)))
    values_at = len(head) + 2 + len(tags) * (4 + 2 * width) + width + (6 if big else 0) + 2
    fits = {tag: len(v) * struct.calcsize("<" + codes[k]) <= width for tag, (k, v) in tags.items()}
    long = sum(
        len(v) * struct.calcsize("<" + codes[k]) for t, (k, v) in tags.items() if not fits[t]
    )
    tags[273] = (4, tuple(values_at + long + start for start in tags[273][1]))
    entries, values = b"", b""
    for tag, (kind, numbers) in tags.items():
        packed_numbers = struct.pack(f"{order}{len(numbers)}{codes[kind]}", *numbers)
        entries += struct.pack(order + "HH" + offset, tag, kind, len(numbers))
        if fits[tag]:
            entries += packed_numbers.ljust(width, b"\0")
        else:
            entries += struct.pack(order + offset, values_at + len(values))
            values += packed_numbers
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return (
        ((b"II" if order == "<" else b"MM") + head + count + entries + bytes(width)).ljust(
            values_at, b"\0"
        )
        + values
        + content
    )


def grey_tags(bits: int, length: int, **changes: int) -> dict[int, tuple[int, tuple[int, ...]]]:
    usual = {256: 96, 257: 72, 258: bits, 259: 1, 262: 1, 277: 1, 278: 72, 279: length}
    usual |= {int(tag.removeprefix("tag")): value for tag, value in changes.items()}
    return {tag: (4 if tag == 279 else 3, (value,)) for tag, value in usual.items()}


def packed(values: np.ndarray, bits: int) -> bytes:
    """Pack integers (H, W) with so many bits each, every row from a byte of its own."""
    each = (values[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.astype(np.uint8).reshape(len(values), -1), axis=1).tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "deflate", "packbits"])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_kind_of_tiff_gives_its_pixels_back(
    depth: int, compression: str | None, layout: str
) -> None:
    kinds = product(
        ("minisblack", "miniswhite", "rgb"),
        ("contig", "separate"),
        (None, 2) if compression in ("lzw", "adobe_deflate", "deflate") else (None,),
        (None, "assocalpha", "unassalpha", "unspecified"),
    )
    orders = cycle([("<", False), (">", False), (">", True), ("<", True), ("<", False)])
    tried = 0
    for (photometric, planar, predictor, alpha), (order, big) in zip(kinds, orders, strict=False):
        source = (RGB if depth == 8 else DEEP)[:20, :40]
        stored = source if photometric == "rgb" else source[..., :1]
        if alpha:  # whatever it says, it is dropped
            stored = np.dstack([stored, source[..., 1]])
        if stored.shape[2] == 1 and planar == "separate":
            continue
        options: dict[str, Any] = {"extrasamples": [alpha]} if alpha else {}
        if stored.shape[2] > 1:
            options["planarconfig"] = planar
        data = tiff(
            np.moveaxis(stored, 2, 0).copy() if planar == "separate" else np.squeeze(stored),
            photometric=photometric,
            compression=compression,
            predictor=predictor,
            byteorder=order,
            bigtiff=big,
            **options,
            **LAYOUTS[layout],
        )
        want = source if photometric == "rgb" else np.repeat(source[..., :1], 3, axis=2)
        if photometric == "miniswhite":
            want = np.iinfo(source.dtype).max - want
        decoded = decode_image(data).pixels
        assert decoded.dtype == source.dtype
        np.testing.assert_array_equal(decoded, want, f"{photometric} {planar} {predictor} {alpha}")
        tried += 1
    assert tried >= 16


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        (mode, compression)
        for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK")
        for compression in (None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        if compression != "jpeg" or mode not in ("1", "P", "PA")  # libtiff does not write them
    ],
)
def test_what_pillow_writes_is_read_as_pillow_reads_it_or_refused(
    mode: str, compression: str | None
) -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(RGB)
    # A palette with alpha is reached by way of one without.
    (picture.convert("P") if mode == "PA" else picture).convert(mode).save(
        buffer, "TIFF", compression=compression
    )
    if compression == "jpeg" and mode not in ("L", "RGB"):
        with pytest.raises(UnsupportedFormat, match="JPEG compression"):
            decode_image(buffer.getvalue())
        return
    want = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(decode_image(buffer.getvalue()).pixels, want)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", range(9, 16))
def test_packed_bits_come_out_as_they_were_stored(
    bits: int, photometric: int, order: str, big: bool
) -> None:
    values = DEEP[..., 0] >> (16 - bits)
    content = packed(values, bits)
    data = raw(grey_tags(bits, len(content), tag262=photometric), content, order, big)
    decoded = decode_image(data).pixels
    assert decoded.dtype == np.uint16
    want = values if photometric == 1 else (1 << bits) - 1 - values
    np.testing.assert_array_equal(decoded[..., 0], want)


def test_one_white_level_fits_twelve_bits_packed_and_in_sixteen() -> None:
    values = RGB[..., 0].astype(np.uint16) << 4
    content = packed(values, 12)
    config = PreprocessConfig(canvas=64, white_level=4095)
    one, _ = place(decode_image(raw(grey_tags(12, len(content)), content)), config)
    other, _ = place(decode_image(tiff(values, photometric="minisblack")), config)
    np.testing.assert_array_equal(one, other)
    assert abs(one.mean() - RGB[..., 0].mean() / 255) < 0.01


@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_is_black_and_white(photometric: int) -> None:
    bits = RGB[..., 0] > 127
    content = packed(bits.astype(np.uint8), 1)
    decoded = decode_image(raw(grey_tags(1, len(content), tag262=photometric), content)).pixels
    np.testing.assert_array_equal(decoded[..., 0], np.where(bits ^ (photometric == 0), 255, 0))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiff(RGB[..., 0].astype(np.float32), photometric="minisblack"), "32-bit floating-point"),
        (tiff(RGB[..., 0].astype(np.float64), photometric="minisblack"), "64-bit floating-point"),
        (tiff(RGB[..., 0].astype(np.float16), photometric="minisblack"), "16-bit floating-point"),
        (tiff(RGB.astype(np.float32), photometric="rgb"), "32-bit floating-point"),
        (tiff(RGB[..., 0].astype(np.uint32), photometric="minisblack"), "32-bit grey"),
        (tiff(RGB[..., 0].astype(np.uint64), photometric="minisblack"), "64-bit grey"),
        (tiff(RGB[..., 0].astype(np.int16), photometric="minisblack"), "16-bit signed"),
        (tiff(RGB[..., 0].astype(np.int8), photometric="minisblack"), "8-bit signed"),
        (tiff(RGB[..., 0].astype(np.complex64), photometric="minisblack"), "complex"),
        (tiff(np.dstack([RGB, RGB[..., :2]]), photometric="rgb", extrasamples=[0, 0]), "5 bands"),
        (raw(grey_tags(4, 72 * 48), bytes(72 * 48)), "4-bit grey"),
        (raw(grey_tags(2, 72 * 24), bytes(72 * 24)), "2-bit grey"),
        (raw(grey_tags(8, 72 * 96, tag262=32803), bytes(72 * 96)), "raw colour mosaic"),
        (raw(grey_tags(8, 72 * 96, tag262=8), bytes(72 * 96)), "L\\*a\\*b"),
        (raw(grey_tags(8, 72 * 96, tag266=2), bytes(72 * 96)), "FillOrder"),
        (raw(grey_tags(1, 72 * 12, tag259=4), bytes(72 * 12)), "CCITT Group 4"),
        (raw(grey_tags(8, 72 * 12, tag259=6), bytes(72 * 12)), "old-style JPEG"),
        (raw(grey_tags(8, 72 * 12, tag259=34712), bytes(72 * 12)), "JPEG 2000"),
        (raw(grey_tags(8, 72 * 12, tag259=5, tag317=3), bytes(72 * 12)), "predictor 3"),
        (tiff(RGB[..., 0], photometric="minisblack", compression="zstd"), "Zstandard"),
        (tiff(RGB[..., 0], photometric="minisblack", compression="lzma"), "LZMA"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name) as caught:
        decode_image(data)
    assert "save it as" in str(caught.value)


PAGE = {"photometric": "rgb"}


@pytest.mark.parametrize("big", [False, True])
def test_several_pages_are_refused(big: bool) -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=big) as writer:
        for _ in range(3):
            writer.write(RGB, metadata=None, **PAGE)
    with pytest.raises(UnsupportedFormat, match="3 pages; send one image for each"):
        decode_image(buffer.getvalue())


def test_reduced_copies_and_masks_are_passed_over_wherever_they_stand() -> None:
    small, other = (RGB[::4, ::4].copy(), PAGE | {"subfiletype": 1}), (RGB, PAGE)
    mask = (RGB[..., 0] > 127, {"photometric": "minisblack", "subfiletype": 4})
    for data in (
        pages(small, other),
        pages(other, small),
        pages(other, small, small),
        pages(small, other, mask),
        pages((RGB, PAGE | {"subifds": 2}), small, small),
    ):
        np.testing.assert_array_equal(decode_image(data).pixels, RGB)


def test_a_picture_below_another_that_is_no_copy_is_a_page() -> None:
    with pytest.raises(UnsupportedFormat, match="2 pages"):
        decode_image(pages((RGB, PAGE | {"subifds": 1}), (RGB[::-1].copy(), PAGE)))
    thumbnail = (RGB[::4, ::4].copy(), PAGE | {"subfiletype": 1, "subifds": 1})
    np.testing.assert_array_equal(decode_image(pages(thumbnail, (RGB, PAGE))).pixels, RGB)


def test_a_single_picture_that_calls_itself_reduced_is_the_picture() -> None:
    data = pages((RGB, PAGE | {"subfiletype": 1}))
    np.testing.assert_array_equal(decode_image(data).pixels, RGB)


@pytest.mark.parametrize("cut", [0.02, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "jpeg"])
def test_a_truncated_tiff_is_refused(compression: str | None, cut: float) -> None:
    whole = tiff(RGB, photometric="rgb", compression=compression)
    with pytest.raises((CorruptImage, UnsupportedFormat)):
        decode_image(whole[: int(cut * len(whole))])


def test_a_hundred_pages_and_more_are_refused_as_such() -> None:
    many = pages(*[(RGB[:16, :16].copy(), PAGE)] * 120)
    with pytest.raises(UnsupportedFormat, match="more than 100 pages"):
        decode_image(many)


def test_directories_in_a_circle_end() -> None:
    content = RGB[..., 0].tobytes()
    data = bytearray(raw(grey_tags(8, len(content)), content))
    (count,) = struct.unpack_from("<H", data, 8)
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    with pytest.raises(CorruptImage, match="circle"):
        decode_image(bytes(data))


def test_size_is_refused_before_pixels_and_too_many_strips_by_their_number() -> None:
    with pytest.raises(ImageTooLarge, match="60000×60000"):
        decode_image(raw(grey_tags(8, 100, tag256=60_000, tag257=60_000, tag259=8), bytes(100)))
    with pytest.raises(ImageTooLarge, match="96×72"):
        decode_image(tiff(RGB, photometric="rgb"), ImageLimits(max_pixels=6911))
    tags = grey_tags(
        8, 100, tag257=250_000 // 4, tag256=400, tag278=1, tag284=2, tag277=4, tag262=2
    )
    tags[257] = (4, (62_500,))
    with pytest.raises(UnsupportedFormat, match="250000 strips"):
        decode_image(raw(tags, bytes(100)), ImageLimits(max_ratio=1e9))


@pytest.mark.parametrize("compression", ["lzw", "packbits", "deflate"])
def test_many_small_strips_cost_little(compression: str) -> None:
    whole = np.tile(RGB[..., 0], (140, 1))  # 10,080 rows
    started = time.monotonic()
    data = tiff(whole, photometric="minisblack", compression=compression, rowsperstrip=1)
    wrote = time.monotonic()
    np.testing.assert_array_equal(decode_image(data).pixels[..., 0], whole)
    assert time.monotonic() - wrote < 10 * (wrote - started) + 1


@pytest.mark.parametrize("content", [b"\0a" * 800_000, b"\x80" * 1_600_000, b"\x81a" * 500_000])
def test_runs_that_say_little_cost_little(content: bytes) -> None:
    tags = grey_tags(8, len(content), tag256=1000, tag257=800, tag278=800, tag259=32773)
    started = time.monotonic()
    with contextlib.suppress(CorruptImage):
        assert decode_image(raw(tags, content)).size == (800, 1000)
    assert time.monotonic() - started < 1


def test_a_jpeg_strip_that_is_larger_than_its_strip_is_not_decoded() -> None:
    inside = io.BytesIO()
    Image.new("L", (3000, 3000)).save(inside, "JPEG")
    content = inside.getvalue()
    with pytest.raises(CorruptImage, match="not of the strip's size"):
        decode_image(raw(grey_tags(8, len(content), tag259=7), content))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth(bits: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 1 << bits))
    indices = RGB[..., 0] >> (8 - bits)
    content = packed(indices, bits)
    tags = grey_tags(bits, len(content), tag262=3)
    for scale in (257, 256, 1):  # 16 bits in two ways, and as old writers do it
        tags[320] = (3, tuple((colours * scale).flatten().tolist()))
        decoded = decode_image(raw(tags, content)).pixels
        np.testing.assert_array_equal(decoded, colours.T[indices])


def test_a_last_strip_may_be_as_long_as_the_others() -> None:
    padded = np.zeros((80, 96), np.uint8)
    padded[:72] = RGB[..., 0]
    content = b"".join(zlib.compress(padded[top : top + 40].tobytes()) for top in (0, 40))
    first = len(zlib.compress(padded[:40].tobytes()))
    tags = grey_tags(8, 0, tag259=8, tag278=40)
    tags |= {273: (4, (0, first)), 279: (4, (first, len(content) - first))}
    np.testing.assert_array_equal(decode_image(raw(tags, content)).pixels[..., 0], RGB[..., 0])
