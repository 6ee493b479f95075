"""Damage: for every encoder, a file with changed bytes is refused or is (nearly) the same picture.

JPEG and uncompressed data carry no checksum: what decodes to as many blocks as before cannot be
told from a picture. For those the test holds how often that may be; for all others it is never.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.orientation import orientation_of
from tests.conftest import normal_pixels

RGB = normal_pixels(1, (72, 96))
DEEP = RGB.astype(np.uint16) * 257
PICTURE = Image.fromarray(RGB)
TRIES = 60


def pillow(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PICTURE.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, pixels, photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


CHECKED: dict[str, bytes] = {
    "PNG": pillow("PNG"),
    "PNG, grey": pillow("PNG", "L"),
    "PNG, palette": pillow("PNG", "P"),
    "TIFF, deflate": tiff(RGB, compression="deflate"),
    "TIFF, deflate, Pillow": pillow("TIFF", compression="tiff_adobe_deflate"),
    "TIFF, deflate, predictor": tiff(DEEP, compression="deflate", predictor=2, rowsperstrip=8),
    "TIFF, deflate, tiles": tiff(DEEP, compression="deflate", tile=(32, 32)),
    "TIFF, LZW": tiff(RGB, compression="lzw"),
    "TIFF, LZW, Pillow": pillow("TIFF", compression="tiff_lzw"),
    "TIFF, LZW, predictor": tiff(DEEP, compression="lzw", predictor=2, rowsperstrip=8),
    "TIFF, LZW, grey": pillow("TIFF", "L", compression="tiff_lzw"),
}
UNCHECKED: dict[str, bytes] = {
    "JPEG": pillow("JPEG", quality=95),
    "JPEG, grey": pillow("JPEG", "L", quality=95),
    "JPEG, progressive": pillow("JPEG", quality=95, progressive=True),
    "JPEG, CMYK": pillow("JPEG", "CMYK", quality=95),
    "JPEG, several pictures": pillow("MPO", quality=95, save_all=True, append_images=[]),
    "TIFF, JPEG": pillow("TIFF", compression="jpeg"),
}


def scrambled(data: bytes, generator: np.random.Generator, count: int) -> bytes:
    at = int(generator.integers(len(data) // 10, len(data) * 9 // 10 - count))
    noise = generator.integers(0, 256, count, np.uint8).tobytes()
    return data[:at] + noise + data[at + count :]


def cut_out(data: bytes, generator: np.random.Generator, count: int) -> bytes:
    at = int(generator.integers(len(data) // 10, len(data) * 9 // 10 - count))
    return data[:at] + data[at + count :]


def wrong(data: bytes, damage: Callable[[bytes, np.random.Generator, int], bytes]) -> int:
    """How many of `TRIES` damaged files are read as a visibly wrong picture."""
    generator, true, count = np.random.default_rng(0), decode_image(data).pixels, 0
    scale = 1 if true.dtype == np.uint8 else 257
    for attempt in range(TRIES):
        try:
            pixels = decode_image(damage(data, generator, (4, 16, 64)[attempt % 3])).pixels
        except ImageError:  # the only error there is
            continue
        same_shape = pixels.shape == true.shape
        off = np.abs(pixels.astype(int) - true) > 8 * scale if same_shape else np.True_
        count += bool(off.mean() > 0.005)
    return count


@pytest.mark.parametrize("damage", [scrambled, cut_out])
@pytest.mark.parametrize("name", CHECKED)
def test_a_damaged_file_is_refused_where_the_format_can_tell(
    name: str, damage: Callable[[bytes, np.random.Generator, int], bytes]
) -> None:
    assert wrong(CHECKED[name], damage) <= 1  # a code of LZW may be another of the same length


@pytest.mark.parametrize("damage", [scrambled, cut_out])
@pytest.mark.parametrize("name", UNCHECKED)
def test_every_kind_of_jpeg_is_as_strict_as_the_plain_one(
    name: str, damage: Callable[[bytes, np.random.Generator, int], bytes]
) -> None:
    assert wrong(UNCHECKED[name], damage) <= 0.6 * TRIES


@pytest.mark.parametrize("name", [*CHECKED, *UNCHECKED])
def test_a_single_bit_gives_an_image_or_an_image_error(name: str) -> None:
    data = (CHECKED | UNCHECKED)[name]
    generator = np.random.default_rng(1)
    # The structure at both ends is where a reader trips.
    positions = [*range(120), *range(len(data) - 200, len(data))]
    for position in [*positions, *generator.integers(0, len(data), 60).tolist()]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(generator.integers(8))
        try:
            assert decode_image(bytes(flipped)).pixels.shape[2] == 3
        except ImageError:
            continue


@given(st.binary(max_size=64), st.sampled_from([b"II*\0", b"MM\0*", b""]))
def test_exif_of_any_bytes_gives_an_orientation(rest: bytes, magic: bytes) -> None:
    assert 1 <= orientation_of(magic + rest) <= 8


@pytest.mark.parametrize("exif", [b"II*\0\0\0\0\0", b"MM\0*\0\0\0\0", b"II*\0"])
def test_exif_without_a_directory_is_upright(exif: bytes) -> None:
    assert orientation_of(exif) == 1
