import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomaly.encoding import LOSSLESS, RAW, Encoding, Encodings, encoding_of, read_header
from anomaly.image import ImageLimits, decode_image
from tests.conftest import normal_pixels, png

PIXELS = normal_pixels(3)


def saved(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()


def described(data: bytes) -> Encoding:
    return encoding_of(read_header(data), decode_image(data))


def held_by(data: bytes, canvas: int | None = None) -> int:
    header = read_header(data)
    assert header is not None
    return header.decoded_bytes(canvas)


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_quality_of_a_standard_jpeg_is_known(quality: int) -> None:
    assert described(saved("JPEG", quality=quality)).quality == pytest.approx(quality, abs=1)


@given(st.integers(10, 98), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_a_camera_with_tables_of_its_own_gets_a_quality_near_it(quality: int, seed: int) -> None:
    standard = np.array(Image.open(io.BytesIO(saved("JPEG", quality=quality))).quantization[0])
    factor = np.random.default_rng(seed).uniform(0.9, 1.1, 64)
    table = np.clip(np.round(standard * factor), 1, 255).astype(int).tolist()
    data = saved("JPEG", qtables=[table, table])
    assert described(data).quality == pytest.approx(quality, abs=3)


@pytest.mark.parametrize(("option", "chroma"), [(0, 444), (1, 422), (2, 420)])
def test_chroma_subsampling_is_known(option: int, chroma: int) -> None:
    assert described(saved("JPEG", subsampling=option)).subsampling == chroma


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_format_size_and_channels_are_known(kind: str, channels: int) -> None:
    encoding = described(saved(kind, PIXELS if channels == 3 else PIXELS[..., 0]))
    assert (encoding.format, encoding.channels, encoding.bits) == (kind, channels, 8)
    assert (encoding.height, encoding.width) == PIXELS.shape[:2]
    assert (encoding.quality == LOSSLESS) == (kind != "JPEG")


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_known(extension: str, channels: int) -> None:
    deep = np.full((32, 40) if channels == 1 else (32, 40, 3), 9000, np.uint16)
    data = cv2.imencode(extension, deep)[1].tobytes()
    assert (described(data).bits, described(data).channels) == (16, channels)
    assert held_by(data) == 6 * 32 * 40


def test_an_image_on_its_side_is_described_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoding = described(saved("JPEG", exif=exif))
    assert (encoding.height, encoding.width) == PIXELS.shape[1::-1]


def test_pixels_without_a_file_and_a_file_by_its_path(tmp_path: Path) -> None:
    image = decode_image(png(PIXELS))
    assert encoding_of(None, image, is_raw=True) == Encoding(RAW, *PIXELS.shape[:2], 3, 8)
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    assert encoding_of(read_header(tmp_path / "a.png"), image) == described(png(PIXELS))
    assert encoding_of(read_header(b"what only another reads"), image).format == "OTHER"


ENCODINGS = st.builds(
    Encoding,
    st.sampled_from(["RAW", "JPEG", "PNG", "OTHER"]),
    st.integers(16, 10_000),
    st.integers(16, 10_000),
    st.sampled_from([1, 3]),
    st.sampled_from([8, 16]),
    st.integers(1, LOSSLESS),
    st.sampled_from([0, 420, 444]),
)


@given(ENCODINGS)
def test_a_row_keeps_it(encoding: Encoding) -> None:
    assert Encoding.of_row(encoding.row()) == encoding


@given(st.lists(ENCODINGS, min_size=1, max_size=9), st.randoms())
def test_a_summary_covers_each_and_knows_no_order(many: list[Encoding], order: object) -> None:
    summary = Encodings.of(many)
    order.shuffle(many)  # type: ignore[attr-defined]
    assert Encodings.of(many) == summary
    for one in many:
        assert one.format in summary.formats
        assert summary.heights[0] <= one.height <= summary.heights[1]
        assert summary.qualities[0] <= one.quality <= summary.qualities[1]
        assert summary.aspects[0] <= one.width / one.height <= summary.aspects[1]


@pytest.mark.parametrize("size", [(64, 64), (400, 600), (1030, 997)])
@pytest.mark.parametrize("canvas", [None, 64])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_what_decoding_holds_is_known_before(
    size: tuple[int, int], canvas: int | None, kind: str
) -> None:
    data = saved(kind, np.zeros((*size, 3), np.uint8) + np.uint8(90))
    held = decode_image(data, ImageLimits(max_ratio=1e9), canvas=canvas).pixels.nbytes
    assert held_by(data, canvas) == held


def test_a_progressive_jpeg_holds_all_its_coefficients() -> None:
    plain, progressive = saved("JPEG"), saved("JPEG", progressive=True)
    assert held_by(progressive) - held_by(plain) == 6 * PIXELS.shape[0] * PIXELS.shape[1]


@pytest.mark.parametrize("data", [b"", b"junk", png(PIXELS)[:20], saved("JPEG")[:30]])
def test_what_is_no_image_has_no_header(data: bytes) -> None:
    assert read_header(data) is None
