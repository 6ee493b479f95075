import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.finetune.conftest import write_kinds
from training.errors import DataError
from training.finetune.data import drawn, labelled_set
from training.samples import Sample


def kinds(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(sample.label for sample in samples)


def test_the_sets_own_splits_are_taken(kinds_data: Path) -> None:
    labelled = labelled_set(kinds_data)
    assert kinds(labelled.train) == {"good": 8, "dent": 8, "crack": 8}
    assert kinds(labelled.test) == {"good": 4, "dent": 4, "crack": 4}
    assert labelled.notes == ()


def test_kinds_without_good_parts_are_kinds_and_no_lots(tmp_path: Path) -> None:
    counts = {"train/dent": 3, "train/crack": 3, "test/dent": 2, "test/crack": 2}
    labelled = labelled_set(write_kinds(tmp_path, counts))
    assert kinds(labelled.train) == {"dent": 3, "crack": 3}
    assert kinds(labelled.test) == {"dent": 2, "crack": 2}


def test_of_a_set_for_anomaly_detection_both_splits_are_drawn(tiny_data: Path) -> None:
    labelled = labelled_set(tiny_data)
    assert kinds(labelled.train)["blob"] == 4
    assert kinds(labelled.test)["blob"] == 2
    assert not {s.path for s in labelled.train} & {s.path for s in labelled.test}
    assert "drawn from all images" in labelled.notes[0]


def test_copies_of_test_images_are_not_trained_on(kinds_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(kinds_data, data)
    shutil.copy(data / "test/dent/000.png", data / "train/dent/again.png")
    labelled = labelled_set(data)
    assert kinds(labelled.train)["dent"] == 8
    assert "1 training images left out" in labelled.notes[0]


def test_a_group_lies_in_one_split(kinds_data: Path) -> None:
    """By a pattern that joins images of both splits: training gives way."""
    labelled = labelled_set(kinds_data, r"(\d\d)\.png$")
    tested = {sample.session for sample in labelled.test}
    assert kinds(labelled.train) == {"good": 4, "dent": 4, "crack": 4}
    assert not tested & {sample.session for sample in labelled.train}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train/good": 3, "test/good": 2}, "of 1 kind"),
        ({"train/good": 3, "train/dent": 1, "test/good": 2}, "one training image of dent"),
        ({"train/good": 4}, "of 1 kind"),
    ],
)
def test_too_few_kinds_or_images_are_said(
    tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        labelled_set(write_kinds(tmp_path, counts))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 5),
)
def test_drawn_splits_share_no_group_and_lose_no_image(
    drawn_labels: list[tuple[str, int]], seed: int
) -> None:
    samples = [
        Sample(Path(str(i)), label, "train", f"s{session}")
        for i, (label, session) in enumerate(drawn_labels)
    ]
    train, test = drawn(samples, seed)
    assert sorted(s.path for s in train + test) == sorted(s.path for s in samples)
    assert not {s.session for s in train} & {s.session for s in test}
