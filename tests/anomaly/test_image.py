import base64
import contextlib
import io
import resource
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from anomaly.errors import (
    CorruptImage,
    EmptyImage,
    ImageError,
    ImageTooLarge,
    ImageTooSmall,
    UnsupportedFormat,
)
from anomaly.image import ImageLimits, decode_image, decode_mask
from anomaly.preprocess import PreprocessConfig, place
from tests.conftest import jpeg, normal_pixels, png

RGB = normal_pixels(1, (40, 60))


def encoded(extension: str, pixels: np.ndarray) -> bytes:
    shown = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(extension, shown)[1].tobytes()


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff"])
def test_lossless_formats_give_the_pixels_back_in_rgb(extension: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(extension, RGB)).pixels, RGB)


def test_jpeg_gives_the_pixels_nearly_back() -> None:
    decoded = decode_image(jpeg(RGB)).pixels
    assert decoded.shape == RGB.shape
    assert np.abs(decoded.astype(int) - RGB).mean() < 3


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [0, 3])
def test_sixteen_bits_stay_sixteen_bits(extension: str, channels: int) -> None:
    shape = (20, 30, channels) if channels else (20, 30)
    deep = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    decoded = decode_image(encoded(extension, deep)).pixels
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, deep if channels else np.repeat(deep[..., None], 3, 2))


def test_grey_is_repeated_and_alpha_is_dropped() -> None:
    grey = decode_image(png(RGB[..., 0])).pixels
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(buffer, "PNG")
    np.testing.assert_array_equal(decode_image(buffer.getvalue()).pixels, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_does(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :16] = 255  # one bright corner tells all eight apart
    picture[:16, 16:] = 128
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(picture).save(buffer, kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    decoded = decode_image(buffer.getvalue()).pixels
    assert decoded.shape == np.asarray(upright).shape
    assert np.abs(decoded.astype(int) - np.asarray(upright)).max() < 12


def test_cmyk_jpeg_is_read() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(buffer, "JPEG", quality=98)
    assert np.abs(decode_image(buffer.getvalue()).pixels.astype(int) - RGB).mean() < 8


def test_no_bytes_is_its_own_error() -> None:
    with pytest.raises(EmptyImage, match="empty"):
        decode_image(b"")


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"hello", "not an image"),
        (bytes(500), "not an image"),
        (b"%PDF-1.7 ...", "a PDF"),
        (saved("GIF"), "a GIF"),
        (saved("WEBP"), "WebP"),
        (saved("AVIF"), "AVIF"),
        (saved("JPEG2000"), "JPEG 2000"),
        (saved("PPM"), "Netpbm"),
        (saved("ICO"), "ICO"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"RIFF\0\0\0\0AVI LIST", "RIFF"),
        (base64.b64encode(jpeg(RGB)), "base64 text"),
        (base64.b64encode(png(RGB)), "base64 text"),
        (b'"' + base64.b64encode(png(RGB)) + b'"', "base64 text"),
        (b"data:image/png;base64," + base64.b64encode(png(RGB)), "data URI"),
        (b'{"image": "/9j/4AAQ"}', "JSON"),
        (b'\xef\xbb\xbf  [{"image": 1}]', "JSON"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_send(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=name) as caught:
        decode_image(data)
    assert "send" in str(caught.value)
    assert "JPEG, PNG, BMP or TIFF" in str(caught.value)


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff"])
@pytest.mark.parametrize("channels", [0, 3])
def test_a_mask_is_whatever_is_not_black(extension: str, value: int, channels: int) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 30:50] = value
    picture = np.dstack([mask, 0 * mask, 0 * mask]) if channels else mask
    np.testing.assert_array_equal(decode_mask(encoded(extension, picture)), mask > 0)


def test_a_mask_of_sixteen_bits_or_of_one_or_of_a_palette_is_read() -> None:
    mask = np.zeros((40, 60), np.uint16)
    mask[5:20, 30:50] = 1  # of 65535
    np.testing.assert_array_equal(decode_mask(encoded(".png", mask)), mask > 0)
    for mode in ("1", "P", "LA"):
        buffer = io.BytesIO()
        Image.fromarray((mask * 255).astype(np.uint8)).convert(mode).save(buffer, "PNG")
        np.testing.assert_array_equal(decode_mask(buffer.getvalue()), mask > 0)


def test_a_large_mask_of_one_bit_is_no_bomb() -> None:
    buffer = io.BytesIO()
    Image.new("1", (5000, 4000)).save(buffer, "PNG")
    assert not decode_mask(buffer.getvalue()).any()


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_a_damaged_mask_is_refused(extension: str) -> None:
    whole = bytearray(encoded(extension, RGB))
    whole[len(whole) // 2 : len(whole) // 2 + 16] = bytes(16)
    with pytest.raises(CorruptImage):
        decode_mask(bytes(whole))


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff", ".jpg"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_truncated_file_is_never_half_an_image(extension: str, share: float) -> None:
    whole = encoded(extension, normal_pixels(2, (200, 300)))
    with pytest.raises(ImageError):
        decode_image(whole[: int(len(whole) * share)])


def test_a_one_pixel_image_is_too_small() -> None:
    with pytest.raises(ImageTooSmall, match="1×1"):
        decode_image(png(np.zeros((1, 1, 3), np.uint8)))


def test_too_many_pixels_are_refused_from_the_header() -> None:
    with pytest.raises(ImageTooLarge, match="60×40"):
        decode_image(png(RGB), ImageLimits(max_pixels=2399))


def test_a_decompression_bomb_is_refused_from_the_header() -> None:
    header = bytearray(png(RGB))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # IHDR's width and height
    with pytest.raises(ImageError):
        decode_image(bytes(header))


def test_float_tiff_is_refused() -> None:
    with pytest.raises(ImageError):
        decode_image(cv2.imencode(".tiff", np.ones((32, 32), np.float32))[1].tobytes())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_an_image_error(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([png(RGB), jpeg(RGB), encoded(".bmp", RGB)])))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):  # the only error it may raise
        assert decode_image(bytes(whole)).pixels.shape[2] == 3


def test_a_small_file_of_a_huge_image_is_refused_but_a_plain_picture_is_not() -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG", optimize=True)
    with pytest.raises(ImageTooLarge, match="would decode to"):
        decode_image(buffer.getvalue())
    dark = decode_image(encoded(".png", np.zeros((3500, 4000), np.uint8)))
    assert dark.size == (3500, 4000)


@pytest.mark.parametrize(
    ("size", "canvas", "want"),
    [
        ((900, 1300), 100, (225, 325)),
        ((1600, 1601), 100, (200, 201)),
        ((398, 1300), 100, (398, 1300)),
        ((900, 1300), 300, (900, 1300)),
    ],
)
def test_a_large_jpeg_is_decoded_no_larger_than_the_model_needs(
    size: tuple[int, int], canvas: int, want: tuple[int, int]
) -> None:
    pixels = cv2.resize(RGB, size[::-1], interpolation=cv2.INTER_CUBIC)
    whole, reduced = decode_image(jpeg(pixels)), decode_image(jpeg(pixels), canvas=canvas)
    assert (whole.size, whole.source_size) == (size, size)
    assert (reduced.size, reduced.source_size) == (want, size)
    config = PreprocessConfig(canvas=canvas // 32 * 32)
    (small, placed), (large, expected) = place(reduced, config), place(whole, config)
    assert placed == expected
    assert np.abs(small - large).mean() < 1 / 255


def test_a_reduced_jpeg_is_turned_and_checked_like_a_whole_one() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(cv2.resize(RGB, (600, 400), interpolation=cv2.INTER_CUBIC))
    picture.save(buffer, "JPEG", exif=exif)
    turned = decode_image(buffer.getvalue(), canvas=64)
    assert (turned.size, turned.source_size) == ((300, 200), (600, 400))
    with pytest.raises(CorruptImage):
        decode_image(buffer.getvalue()[:-400], canvas=64)


def test_a_png_that_claims_a_chunk_of_four_gigabytes_costs_nothing() -> None:
    saved = io.BytesIO()
    Image.fromarray(normal_pixels(1)).save(saved, "PNG")
    whole = saved.getvalue()
    place = whole.index(b"IDAT") - 4
    bomb = whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CorruptImage, match="longer than the file"):
        decode_image(bomb)
    assert time.monotonic() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


@pytest.mark.parametrize("cut", [1, 4, 12, 20])
def test_a_png_without_its_end_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_image(png(normal_pixels(1))[: -12 - cut])
