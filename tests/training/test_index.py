import json
import pickle
from pathlib import Path

import pytest

from tests.conftest import normal_pixels, png, write_set
from training.errors import DataError
from training.index import FileIndex, identity, indexed


def test_images_of_any_depth_are_listed_once_and_found_by_number(tmp_path: Path) -> None:
    write_set(tmp_path / "data", {"a/b": 3, "c": 2, ".hidden": 1})
    (tmp_path / "data/c/notes.txt").write_text("no image")
    found = indexed([tmp_path / "data"], tmp_path / "run")
    assert [s.path.relative_to(tmp_path).as_posix() for s in found] == [
        "data/a/b/000.png",
        "data/a/b/001.png",
        "data/a/b/002.png",
        "data/c/000.png",
        "data/c/001.png",
    ]
    assert found[-1] == found[4]
    assert list(found[1:3]) == [found[1], found[2]]
    with pytest.raises(IndexError):
        found[5]
    (tmp_path / "data/c/002.png").write_bytes(png(normal_pixels(1)))
    assert len(indexed([tmp_path / "data"], tmp_path / "run")) == 5  # as it was listed
    again = indexed([tmp_path / "data"], tmp_path / "run", again=True)
    assert len(again) == 6
    assert identity(again) != identity(found)
    assert len(indexed([tmp_path / "data/c"], tmp_path / "run")) == 3  # other folders


def test_a_set_gives_its_normal_training_images_only(tiny_data: Path, tmp_path: Path) -> None:
    found = indexed([tiny_data], tmp_path)
    assert len(found) == 24
    assert {s.path.parent for s in found} == {tiny_data / "train/good"}


def test_a_worker_opens_the_listing_by_itself(tiny_data: Path, tmp_path: Path) -> None:
    found = indexed([tiny_data], tmp_path)
    copy: FileIndex = pickle.loads(pickle.dumps(found))
    assert copy[3] == found[3]


def test_nothing_to_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images below"):
        indexed([tmp_path], tmp_path / "run")
    with pytest.raises(DataError, match="does not exist"):
        indexed([tmp_path / "none"], tmp_path / "run")


def test_a_listing_that_was_cut_off_is_made_anew(tiny_data: Path, tmp_path: Path) -> None:
    whole = indexed([tiny_data], tmp_path)

    def power_cut(file: Path, values: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.index.np.save", power_cut)
        with pytest.raises(KeyboardInterrupt):
            indexed([tiny_data], tmp_path, again=True)
    assert list(indexed([tiny_data], tmp_path)) == list(whole)
    (tmp_path / "files.npy").write_bytes(b"torn")
    (tmp_path / "files.json").unlink()  # as the cut leaves it
    assert list(indexed([tiny_data], tmp_path)) == list(whole)


def test_a_listing_of_an_older_lister_is_made_anew(tiny_data: Path, tmp_path: Path) -> None:
    whole = list(indexed([tiny_data], tmp_path))
    about = json.loads((tmp_path / "files.json").read_text())
    del about["lister"]
    (tmp_path / "files.json").write_text(json.dumps(about))
    (tmp_path / "files.txt").write_text(f"{tiny_data}/ground_truth/blob/000_mask.png\n")
    assert list(indexed([tiny_data], tmp_path)) == whole
