"""JPEG: every kind that cameras write is read strictly, and no file keeps a decoder busy."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from anomaly.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from anomaly.image import decode_image
from tests.conftest import normal_pixels

RGB = normal_pixels(1, (72, 96))
PICTURE = Image.fromarray(RGB)


def saved(picture: Image.Image = PICTURE, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **{"quality": 95, "subsampling": 0} | options)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def after_start(data: bytes, inserted: bytes) -> bytes:
    return data[:2] + inserted + data[2:]


def off(data: bytes, want: np.ndarray = RGB) -> float:
    decoded = decode_image(data).pixels
    assert decoded.shape == want.shape
    return float(np.abs(decoded.astype(int) - want).mean())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_and_colour_are_as_pillow_decodes_them(
    mode: str, progressive: bool, subsampling: int
) -> None:
    options = {"subsampling": subsampling} if mode == "RGB" else {"subsampling": -1}
    data = saved(PICTURE.convert(mode), progressive=progressive, **options)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert off(data, want) < 0.3


def test_rgb_without_a_colour_transform_is_not_taken_for_luminance() -> None:
    assert off(saved(keep_rgb=True)) < 2


@pytest.mark.parametrize("transform", [0, 2, None])
def test_cmyk_and_ycck_are_as_pillow_decodes_them(transform: int | None) -> None:
    data = bytearray(saved(PICTURE.convert("CMYK"), quality=98))
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        del data[at : at + 16]
    else:
        data[at + 15] = transform
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert off(bytes(data), want) < 1
    assert transform == 2 or off(bytes(data)) < 4


def test_of_several_pictures_the_primary_one_is_read_whatever_follows() -> None:
    several = saved(kind="MPO", save_all=True, append_images=[PICTURE.resize((32, 24))])
    np.testing.assert_array_equal(decode_image(several).pixels, decode_image(saved()).pixels)
    for behind in (bytes(1000), b"\xff\xd8\xff" + bytes(40), b"\xff\xda" * 500, b"MotionPhoto"):
        np.testing.assert_array_equal(
            decode_image(saved() + behind).pixels, decode_image(saved()).pixels
        )


def with_orientation(kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    entry = struct.pack(order + "HHHI", 1, 0x112, kind, count) + value
    return after_start(saved(), segment(0xE1, b"Exif\0\0" + head + entry + bytes(4)))


@pytest.mark.parametrize(
    ("kind", "count", "value", "upright"),
    [
        (1, 1, b"\3\0\0\0", False),  # a byte
        (3, 1, b"\3\0\0\0", False),
        (4, 1, b"\3\0\0\0", False),
        (7, 1, b"\3\0\0\0", False),  # undefined
        (2, 2, b"3\0\0\0", False),  # text
        (2, 4, b"top\0", True),
        (3, 0, b"\3\0\0\0", True),
        (3, 1, b"\0\0\0\0", True),
        (3, 1, b"\x09\0\0\0", True),
        (3, 1, b"\xff\xff\0\0", True),
        (9, 1, b"\xff\xff\xff\xff", True),
        (11, 1, b"\0\0\x40\x40", True),  # floating-point
        (5, 1, b"\xff\0\0\0", True),  # a ratio beyond the end
        (99, 1, b"\3\0\0\0", True),
        (3, 2**31, b"\3\0\0\0", True),
    ],
)
def test_an_odd_orientation_never_refuses_a_picture(
    kind: int, count: int, value: bytes, upright: bool
) -> None:
    want = decode_image(saved()).pixels
    decoded = decode_image(with_orientation(kind, count, value)).pixels
    np.testing.assert_array_equal(decoded, want if upright else want[::-1, ::-1])


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", bytes(60)])
def test_damaged_exif_never_refuses_a_picture(exif: bytes) -> None:
    data = after_start(saved(), segment(0xE1, b"Exif\0\0" + exif))
    np.testing.assert_array_equal(decode_image(data).pixels, decode_image(saved()).pixels)


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_of_exif_are_read(order: str) -> None:
    turned = decode_image(with_orientation(3, 1, struct.pack(order + "HH", 6, 0), order)).pixels
    np.testing.assert_array_equal(turned, np.rot90(decode_image(saved()).pixels, 3))


def test_orientation_in_xmp_alone_is_read() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="3"/>'
    turned = decode_image(after_start(saved(), segment(0xE1, xmp))).pixels
    np.testing.assert_array_equal(turned, decode_image(saved()).pixels[::-1, ::-1])


@pytest.mark.parametrize(
    ("marker", "frame", "name"),
    [
        (0xC3, b"\x08\0\x48\0\x60\1\1\x11\0", "lossless JPEG"),
        (0xF7, b"\x08\0\x48\0\x60\1\1\x11\0", "JPEG-LS"),
        (0xC5, b"\x08\0\x48\0\x60\1\1\x11\0", "hierarchical"),
        (0xC1, b"\x0c\0\x48\0\x60\1\1\x11\0", "12 bits"),
        (0xC0, b"\x08\0\x48\0\x60\2\1\x11\0\2\x11\0", "2 components"),
    ],
)
def test_kinds_that_are_not_read_are_named(marker: int, frame: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name):
        decode_image(b"\xff\xd8" + segment(marker, frame) + segment(0xDA, b"\1\1\0\0\0\0"))


@pytest.mark.parametrize("cut", [2, 3, 4, 10, 30, 200, 600])
def test_a_header_without_an_end_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_image(saved()[:cut])


def progressive(side: int, scans: int) -> bytes:
    """Scans that are all legal, and small: each says that nothing is left to be said."""
    blocks = ((side + 7) // 8) ** 2
    runs = "".join(["0" + "1" * 14] * (blocks // 32767 + 1))
    runs += "1" * (-len(runs) % 8)
    entropy = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    one = bytes([1] + [0] * 15)
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([16] * 64))
        + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
        + segment(0xC4, b"\0" + one + b"\0")
        + segment(0xC4, b"\x10" + one + b"\xe0")
        + segment(0xDA, b"\1\1\0\0\0\0")
        + bytes((blocks + 7) // 8)
        + (segment(0xDA, b"\1\1\0\1\x3f\0") + entropy) * scans
        + b"\xff\xd9"
    )


def test_a_bomb_of_scans_is_refused_at_once() -> None:
    for side, scans in ((64, 100), (64, 500_000), (9900, 20), (9900, 500)):
        started = time.monotonic()
        with pytest.raises(ImageTooLarge, match="scans"):
            decode_image(progressive(side, scans))
        assert time.monotonic() - started < 2
    assert decode_image(progressive(64, 99)).size == (64, 64)


def test_markers_that_are_no_scans_are_not_counted() -> None:
    thumbnail = segment(0xE1, b"Exif\0\0" + b"\xff\xda" * 30_000)
    data = after_start(saved(progressive=True), thumbnail)
    assert off(data) < 2
    noted = saved()[:-2] + segment(0xFE, b"\xff\xda" * 30_000) + b"\xff\xd9"
    assert off(noted) < 2  # a comment behind the scan


def test_segments_without_end_are_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(CorruptImage):
        decode_image(b"\xff\xd8" + segment(0xFE, b"") * 2_000_000)
    with pytest.raises(CorruptImage):
        decode_image(b"\xff\xd8" + b"\xff" * 8_000_000)
    assert time.monotonic() - started < 4
