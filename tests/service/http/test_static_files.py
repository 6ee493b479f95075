import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.static_files import has_tag, read_folder, takes_gzip


def test_a_folder_is_read_once_by_its_paths(tmp_path: Path) -> None:
    (tmp_path / "i18n").mkdir()
    (tmp_path / "app.js").write_text("x = 1;\n" * 100)
    (tmp_path / "i18n/de.json").write_text("{}")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "app.js~").write_text("an editor's")
    (tmp_path / "types.d.ts").write_text("no browser asks for it")
    files = read_folder(tmp_path)
    assert sorted(files) == ["app.js", "i18n/de.json", "photo.png"]
    assert files["app.js"].media_type == "text/javascript; charset=utf-8"
    assert files["i18n/de.json"].media_type == "application/json; charset=utf-8"
    assert files["photo.png"].media_type == "image/png"
    packed = files["app.js"].gzipped
    assert packed is not None
    assert gzip.decompress(packed) == files["app.js"].body
    assert files["i18n/de.json"].gzipped is None  # longer than itself
    assert files["photo.png"].gzipped is None
    (tmp_path / "app.js").write_text("x = 2;\n" * 100)
    assert read_folder(tmp_path)["app.js"].sha256 != files["app.js"].sha256


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip; q=0.001", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
    ],
)
def test_gzip_is_for_who_takes_it(header: str, is_taken: bool) -> None:
    assert takes_gzip(header) is is_taken


@given(header=st.text())
def test_no_header_breaks_an_answer(header: str) -> None:
    takes_gzip(header)
    assert has_tag(header, "0" * 64) is (header.strip() == "*" or f'"{"0" * 64}"' in header)


@pytest.mark.parametrize(
    ("header", "has"),
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ("*", True),
        ("", False),
        ("a", False),
        ('"b"', False),
        ('"a-gzip"', False),
    ],
)
def test_a_tag_is_compared_weakly(header: str, has: bool) -> None:
    assert has_tag(header, "a") is has
