"""Kinds of defects as folders that any system can have and that training reads as kinds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import normal_pixels, png
from training.data import listed
from training.kind_folders import folders_of, kind_of_folder

LABELS = st.from_regex(r"[\w.:/@+ -]{1,40}", fullmatch=True)


@given(st.sets(LABELS, max_size=8))
def test_a_kind_comes_back_from_its_folder_and_no_two_share_one(kinds: set[str]) -> None:
    folders = folders_of(kinds)
    assert {kind: kind_of_folder(folder) for kind, folder in folders.items()} == {
        kind: kind for kind in folders
    }
    assert len({folder.casefold() for folder in folders.values()}) == len(folders)
    for folder in folders.values():
        assert not set(folder) & set('/\\:*?"<>|\0.')
        assert folder == folder.strip()


def test_plain_names_stay_as_they_are() -> None:
    plain = ["scratch", "broken-edge", "Loch groß", "bent_lead", "7", "毛刺"]
    assert folders_of(plain) == {name: name for name in plain}


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("size:.5", "size%3A%2E5"),
        ("good", "%67ood"),
        ("OK", "%4FK"),
        ("0", "%30"),
        ("mask", "%6Dask"),
        ("positive", "%70ositive"),
        ("NUL", "%4EUL"),
        (" edge ", "%20edge%20"),
        ("@eaDir", "%40eaDir"),
    ],
)
def test_names_that_mean_something_else_are_written_so_that_they_do_not(
    kind: str, folder: str
) -> None:
    assert folders_of([kind]) == {kind: folder}


def test_names_that_differ_in_capitals_are_two_folders_everywhere() -> None:
    kinds = ["scratch", "Scratch", "SCRATCH", "dent", "ß", "ss"]
    folders = folders_of(kinds)
    assert folders["scratch"] == "scratch"
    assert folders["Scratch"] == "%53cratch"
    assert len({folder.casefold() for folder in folders.values()}) == len(kinds)


def test_a_name_too_long_for_a_folder_is_left_out() -> None:
    assert folders_of(["毛" * 128, "dent"]) == {"dent": "dent"}


def test_training_reads_every_one_as_a_kind_of_defect(tmp_path: Path) -> None:
    kinds = ["good", "0", "mask", "true", "a/b", "..", "Scratch", "scratch", "test", "@eaDir", "ng"]
    picture = png(normal_pixels(1))
    for kind, folder in folders_of(kinds).items():
        for path in (f"test/{folder}/1.png", f"ground_truth/{folder}/1_mask.png"):
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_bytes(picture)
        assert kind_of_folder(folder) == kind
    (tmp_path / "train/good").mkdir(parents=True)
    (tmp_path / "train/good/1.png").write_bytes(picture)
    samples = [sample for sample in listed(tmp_path).samples if sample.split == "test"]
    assert {kind_of_folder(sample.label) for sample in samples} == set(kinds)
    for sample in samples:
        assert sample.mask is not None
        assert sample.mask.parent.name == sample.path.parent.name
