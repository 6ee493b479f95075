"""Sets of good parts on the disk."""

import errno
import os
from pathlib import Path

import pytest

from service.datasets import Datasets
from service.errors import DatasetsFull, DatasetUnknown, FolderRefused, StorageFailed
from tests.conftest import normal_pixels, png


def datasets(tmp_path: Path, most_bytes: float = 1e9, *roots: Path) -> Datasets:
    return Datasets(tmp_path / "sets", most_bytes, roots)


def test_images_are_named_by_their_bytes_and_copies_are_one(tmp_path: Path) -> None:
    sets = datasets(tmp_path)
    first, second = png(normal_pixels(1)), png(normal_pixels(2))
    addition = sets.add("part", [first, second, first])
    assert (addition.added, addition.copies) == (2, 1)
    again = sets.add("part", [second])
    assert (again.added, again.copies) == (0, 1)
    [dataset] = sets.all()
    assert (dataset.name, dataset.images, dataset.bytes) == ("part", 2, len(first) + len(second))
    assert sets.find("part") == dataset
    names = {path.name for path in (tmp_path / "sets/part/train/good").iterdir()}
    assert all(len(name) == 68 and name.endswith(".png") for name in names)
    sets.remove("part")
    assert sets.all() == []
    assert list((tmp_path / "sets").iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "..", ".", "", "a/b", "../sets", ".hidden", "a\0b"])
def test_an_unknown_or_hostile_name_is_unknown(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetUnknown):
        datasets(tmp_path).remove(name)


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = datasets(tmp_path)
    sets.add("part", [b"\xff\xd8 one"])
    write, calls = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFailed, match="No space left"):
        sets.add("part", [b"\xff\xd8 %d" % number for number in range(4)])
    with pytest.raises(StorageFailed):
        sets.add("other", [b"\xff\xd8 other"])
    assert [(dataset.name, dataset.images) for dataset in sets.all()] == [("part", 1)]
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["part"]


def test_all_sets_together_are_bounded(tmp_path: Path) -> None:
    sets = datasets(tmp_path, 100)
    sets.add("part", [b"BM" + bytes(58)])
    sets.add("part", [b"BM" + bytes(58)])  # the same: takes nothing
    with pytest.raises(DatasetsFull, match="MASKLINE_DATASETS_MB"):
        sets.add("other", [b"BM" + bytes(59)])


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "sets/.staging-left"
    left.mkdir(parents=True)
    sets = datasets(tmp_path)
    assert sets.all() == []
    sets.add("part", [b"BM"])
    assert not left.exists()


def test_only_allowed_folders_are_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "lines/left", tmp_path / "secret"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
    (tmp_path / "lines/link").symlink_to(outside)
    sets = datasets(tmp_path, 1e9, tmp_path / "lines")
    assert sets.allowed_folder(str(inside)) == inside
    refusals = {}
    for path in (
        str(outside),
        str(tmp_path / "missing"),
        str(tmp_path / "lines/link"),
        str(tmp_path / "lines/../secret"),
        "lines/left",
        "/",
        "a\0b",
        f"{tmp_path}/lines-beside",
        "",
    ):
        with pytest.raises(FolderRefused) as caught:
            sets.allowed_folder(path)
        refusals[path] = str(caught.value).replace(repr(path), "")
    assert refusals[str(outside)] == refusals[str(tmp_path / "missing")]  # told nothing
    with pytest.raises(FolderRefused, match=r"\(none\)"):
        datasets(tmp_path).allowed_folder(str(inside))
