"""Any bytes as a manifest give samples or an error that names the line, never another exception."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import normal_pixels, png
from training.data import calibration_images, open_dataset
from training.errors import DataError
from training.manifest import read_manifest
from training.samples import Sample, count_by_split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for day in range(4):
        (tmp_path / f"day{day}").mkdir()
        for number in range(3):
            picture = png(normal_pixels(10 * day + number, (20, 24)))
            (tmp_path / f"day{day}/{number}.png").write_bytes(picture)
    (tmp_path / "a.png").write_bytes(png(normal_pixels(99, (20, 24))))
    return tmp_path


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def every(folder: Path, **more: Any) -> Path:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("day*/*.png"))
    return write(folder, *({"image": name, **more} for name in names))


def read(path: Path) -> list[Sample]:
    return read_manifest(path, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_manifests_of_windows_are_read(folder: Path, encoding: str, end: str) -> None:
    text = '{"image": "a.png", "session": "Größe 7"}' + end
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (folder / "m.jsonl").write_bytes((mark + text).encode(encoding))
    [sample] = read(folder / "m.jsonl")
    assert (sample.session, sample.name) == ("Größe 7", "a.png")


def test_another_encoding_is_named_with_its_line(folder: Path) -> None:
    rows = b'{"image": "day0/0.png"}\n{"image": "a.png", "session": "Gr\xf6\xdfe"}\n'
    (folder / "m.jsonl").write_bytes(rows)
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 .*save the manifest as UTF-8"):
        read(folder / "m.jsonl")


@pytest.mark.parametrize("separator", "\u2028\u2029\x85")
def test_other_line_separators_are_text(folder: Path, separator: str) -> None:
    text = json.dumps({"image": "a.png", "session": f"a{separator}b"}, ensure_ascii=False)
    (folder / "m.jsonl").write_text(text, encoding="utf-8")
    [sample] = read(folder / "m.jsonl")
    assert sample.session == f"a{separator}b"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": None}, "image null; want the path"),
        ({"image": 7}, "image 7; want the path"),
        ({"image": ""}, 'image ""; want the path'),
        ({"image": ["a.png"]}, "want the path"),
        ({"image": "a\0.png"}, "want the path"),
        ({"image": "x" * 5000}, "not a file"),
        ({"image": "day0"}, "not a file"),
        ({"image": "a.png", "mask": 3}, "mask 3; want the path"),
        ({"image": "a.png", "mask": "nowhere.png"}, "not a file"),
        ({"image": "a.png", "label": None}, "label null; want 'good'"),
        ({"image": "a.png", "label": True}, "label true"),
        ({"image": "a.png", "label": ["x"]}, "want 'good'"),
        ({"image": "a.png", "label": " "}, "want 'good'"),
        ({"image": "a.png", "label": 2}, "label 2"),
        ({"image": "a.png", "label": "positive"}, "some use for good parts"),
        ({"image": "a.png", "split": 1}, "has the split 1"),
        ({"image": "a.png", "session": None}, "session null"),
        ({"image": "a.png", "session": float("nan")}, "session NaN"),
        ({"image": "a.png", "session": {}}, "want a name or number"),
    ],
)
def test_what_a_line_says_wrongly_is_named(folder: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"line 1.*{message}"):
        read(write(folder, row))


def test_tables_arrays_and_images_are_named(folder: Path) -> None:
    (folder / "m.csv").write_text("image,label\na.png,good\n")
    with pytest.raises(DataError, match="is a table; want JSON Lines"):
        open_dataset(folder / "m.csv")
    (folder / "m.json").write_text('[\n{"image": "a.png"}\n]')
    with pytest.raises(DataError, match="a JSON array is not read"):
        open_dataset(folder / "m.json")
    with pytest.raises(DataError, match="is one image"):
        open_dataset(folder / "a.png")


def test_depth_and_length_are_bounded(folder: Path) -> None:
    (folder / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not JSON"):
        read(folder / "deep.jsonl")
    (folder / "long.jsonl").write_text('{"image": "' + "a" * 2_000_000)
    with pytest.raises(DataError, match="line 1 is longer than"):
        read(folder / "long.jsonl")


def test_the_same_image_twice_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png in 2 lines"):
        read(write(folder, {"image": "a.png"}, {"image": "day0/../a.png"}))


def test_absolute_paths_are_read(folder: Path) -> None:
    [sample] = read(write(folder, {"image": str(folder / "a.png")}))
    assert sample.name == "a.png"


def test_names_that_repeat_in_folders_are_other_parts(folder: Path) -> None:
    dataset = open_dataset(every(folder, split="validation"))
    assert len({sample.session for sample in dataset.samples}) == 12


def test_a_manifest_without_splits_calibrates_on_all(folder: Path) -> None:
    assert len(calibration_images(every(folder)).samples) == 12
    assert count_by_split(open_dataset(every(folder)).samples) == {
        "train/good": 10,
        "validation/good": 2,
    }
    dataset = calibration_images(every(folder, split="train"))
    assert len(dataset.samples) == 2
    assert dataset.listing.left_out == {"images of train/good": 10}
    rows = [{"image": f"day{d}/{n}.png", "label": int(d == 3)} for d in range(4) for n in range(3)]
    dataset = open_dataset(write(folder, *rows))
    assert count_by_split(dataset.samples) == {
        "train/good": 6,
        "validation/good": 1,
        "test/good": 2,
        "test/anomalous": 3,
    }
    assert any("labels taken for good parts: 0" in note for note in dataset.listing.notes)


ROWS = st.fixed_dictionaries(
    {},
    optional={
        key: st.one_of(
            st.sampled_from(["a.png", "good", "OK", "train", "test", "..", "day0", ""]),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            st.lists(st.text(max_size=3), max_size=2),
        )
        for key in ("image", "label", "mask", "split", "session", "x")
    },
)
LINES = st.lists(ROWS.map(json.dumps).map(str.encode) | st.binary(max_size=40), max_size=3)


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=100) | LINES.map(b"\n".join))
@example(data=b"\xff\xfe\x00")
@example(data=b"\xef\xbb\xbf")
@example(data=b'{"image": "\\ud800"}')
@example(data=b'{"image": "a.png", "session": 1e999}')
@example(data=b'{"image": "a.png", "session": ' + b"9" * 5000 + b"}")
@example(data=b'{"image": "a.png", "session": ' + b"9" * 500 + b"}")
@example(data=b'{"image": "a.png", "label": "\\udcff"}')
def test_any_bytes_are_samples_or_a_data_error(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"x")
    (folder / "m.jsonl").write_bytes(data)
    try:
        samples = read(folder / "m.jsonl")
    except DataError as error:
        str(error).encode()
    else:
        assert all(sample.path.is_file() for sample in samples)
        "".join(sample.label + sample.session for sample in samples).encode()
