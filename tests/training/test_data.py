import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import normal_pixels, png, write_set
from training.data import normal_images, open_dataset, read_mask
from training.decoding import STRICT, Decoding
from training.errors import DataError


def test_mvtec_layout_is_read_with_its_masks(tiny_data: Path) -> None:
    dataset = open_dataset(tiny_data)
    assert len(dataset.select("train")) == 24
    assert len(dataset.select("validation")) == 40
    test = dataset.select("test")
    assert sorted({s.label for s in test}) == ["blob", "good"]
    blob = next(s for s in test if s.label == "blob")
    assert blob.mask is not None
    assert read_mask(blob, (96, 128)).sum() == 400
    assert not read_mask(next(s for s in test if s.is_normal), (96, 128)).any()


def test_a_set_without_validation_gives_up_whole_sessions(tmp_path: Path) -> None:
    lines = []
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(png(normal_pixels(index)))
        lines.append(json.dumps({"image": f"{index}.png", "session": f"lot{index // 4}"}))
    (tmp_path / "set.jsonl").write_text("\n".join(lines) + "\n\n")
    dataset = open_dataset(tmp_path / "set.jsonl")
    train = {s.session for s in dataset.select("train")}
    validation = {s.session for s in dataset.select("validation")}
    assert train | validation == {f"lot{i}" for i in range(5)}
    assert train & validation == set()
    assert len(dataset.select("validation")) == 4


def test_a_plain_folder_is_normal_images(tmp_path: Path) -> None:
    write_set(tmp_path, {".": 10})
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.png").write_bytes(b"")
    dataset = open_dataset(tmp_path)
    assert (len(dataset.select("train")), len(dataset.select("validation"))) == (8, 2)
    assert len(normal_images(tmp_path)) == 10


def test_normals_of_a_set_are_its_validation_split(tiny_data: Path) -> None:
    assert len(normal_images(tiny_data)) == 40


def test_mixed_sizes_and_depths_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(normal_pixels(1, (50, 60))))
    (tmp_path / "b.png").write_bytes(png(normal_pixels(2, (90, 30)).astype(np.uint16) * 257))
    (tmp_path / "c.bmp").write_bytes(png(normal_pixels(3)[..., 0]))
    images = [image for _, image in STRICT.images(open_dataset(tmp_path).samples)]
    assert [image.size for image in images] == [(50, 60), (90, 30), (96, 128)]


def test_unreadable_files_are_named_and_skipped_only_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path, {".": 5})
    (tmp_path / "002.png").write_bytes(b"broken")
    samples = open_dataset(tmp_path).samples
    with pytest.raises(DataError, match=r"002\.png .*--skip-unreadable"):
        list(STRICT.images(samples))
    assert len(list(Decoding(skip_unreadable=True).images(samples))) == 4
    assert "002.png" in caplog.text


def test_a_mask_without_its_image_is_named(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "set")
    (tmp_path / "set/test/blob/002.png").unlink()
    with pytest.raises(DataError, match=r"002_mask\.png has no image; expected test/blob/002"):
        open_dataset(tmp_path / "set")


def test_a_mask_of_another_size_is_named(tiny_data: Path) -> None:
    blob = next(s for s in open_dataset(tiny_data).select("test") if s.label == "blob")
    with pytest.raises(DataError, match="one size"):
        read_mask(blob, (10, 10))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "lacks 'image'"),
        ('{"image": "a.png", "colour": 1}', "unknown key 'colour'"),
        ('{"image": "a.png", "split": "holdout"}', "split 'holdout'"),
        ('{"image": "missing.png"}', "missing.png, which is not a file"),
        ('{"image": "a.png", "mask": "m.png"}', "m.png, which is not a file"),
    ],
)
def test_manifest_mistakes_are_named_with_their_line(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(normal_pixels(1)))
    (tmp_path / "set.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "set.jsonl")


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="no images"):
        normal_images(tmp_path)
    write_set(tmp_path, {".": 1})
    with pytest.raises(DataError, match="too few"):
        open_dataset(tmp_path)
