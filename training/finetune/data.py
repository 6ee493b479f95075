"""Labelled images: any layout that training reads, `train/<kind>` and `test/<kind>` besides.

A set made for anomaly detection has its labels in the test split only; of such a set both splits
are drawn here, kind by kind. Independent parts stay together: a session, or copies of one file, is
in one split alone.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.data import listed
from training.errors import DataError
from training.files import Folder, read_tree
from training.groups import with_groups
from training.labels import is_mask_name, is_normal_name, label_of, split_of
from training.layouts import images_below
from training.samples import Sample, printable

_log = logging.getLogger(__name__)
_TEST_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Samples to train and to test on; `notes` say what was drawn and what was left out."""

    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def labelled_set(data: Path, group_by: str | None = None, seed: int = 0) -> LabelledSet:
    """Read a set whose folders or manifest name kinds; raises `DataError` if there are too few."""
    samples = with_groups(_samples(data), group_by)
    return split(data, samples, seed)


def split(root: Path, samples: Sequence[Sample], seed: int = 0) -> LabelledSet:
    """Take the splits that the labels have, or draw 70 and 30 of 100 groups of each kind."""
    train = [s for s in samples if s.split != "test"]
    test = [s for s in samples if s.split == "test"]
    notes = []
    if _kinds(test) - _kinds(train) or len(_kinds(train)) < 2:
        if unseen := _kinds(test) - _kinds(train):
            named = ", ".join(printable(kind) for kind in sorted(unseen)[:5])
            notes.append(f"no training images of {named}: both splits are drawn from all images")
        train, test = drawn(samples, seed)
    tested = {sample.session for sample in test}
    apart = [sample for sample in train if sample.session not in tested]
    if shared := len(train) - len(apart):
        notes.append(
            f"{shared} training images left out: their session, or a copy of them, is in the test"
        )
    _check(root, apart)
    for note in notes:
        _log.warning("%s", note)
    return LabelledSet(root, tuple(apart), tuple(test), tuple(notes))


def drawn(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Draw 30 of 100 groups of each kind for the test, one at the least where there are two.

    A group of several kinds counts for its rarest: no kind is lost to another's groups.
    """
    frequency = Counter(sample.label for sample in samples)
    kinds_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        kinds_of[sample.session].add(sample.label)
    by_kind: dict[str, list[str]] = defaultdict(list)
    for session in sorted(kinds_of):
        rarest = min(kinds_of[session], key=lambda kind: (frequency[kind], kind))
        by_kind[rarest].append(session)
    generator = np.random.default_rng((seed, 3))
    to_test: set[str] = set()
    for kind in sorted(by_kind):
        sessions = by_kind[kind]
        order = generator.permutation(len(sessions))
        count = max(1, round(_TEST_SHARE * len(sessions))) if len(sessions) > 1 else 0
        to_test |= {sessions[i] for i in order[:count]}
    return (
        [replace(s, split="train") for s in samples if s.session not in to_test],
        [replace(s, split="test") for s in samples if s.session in to_test],
    )


def _samples(data: Path) -> list[Sample]:
    """Read folders of kinds, where a training split has several; any other layout as it is."""
    if data.is_dir():
        folder = read_tree(data, Counter())
        splits = [(split_of(below.name), below) for below in folder.folders]
        trained = [below for name, below in splits if name == "train"]
        if trained and len(kinds := _kind_folders(trained[0])) > 1:
            has_good = any(is_normal_name(kind.name) for kind in kinds)
            if not has_good:  # where good parts lie, the usual reading finds the masks, too
                return [s for name, below in splits if name for s in _of_kinds(data, name, below)]
    return list(listed(data).samples)


def _kind_folders(folder: Folder) -> list[Folder]:
    return [f for f in folder.folders if f.has_images and not is_mask_name(f.name)]


def _of_kinds(root: Path, split_name: str, folder: Folder) -> list[Sample]:
    samples = []
    for kind in _kind_folders(folder):
        label = label_of(kind.name, f"the folder {printable(kind.path)}")
        for path in images_below(kind, Counter(), is_mask_name):
            name = path.relative_to(root).as_posix()
            samples.append(Sample(path, label, split_name, name, name=name))
    return samples


def _kinds(samples: Sequence[Sample]) -> set[str]:
    return {sample.label for sample in samples}


def _check(root: Path, train: Sequence[Sample]) -> None:
    counts = Counter(sample.label for sample in train)
    if len(counts) < 2:
        raise DataError(
            f"{printable(root)} has training images of {len(counts)} kind(s); want train/<kind>/ "
            "and test/<kind>/ with two kinds or more (good/ is one), or a .jsonl manifest with a "
            "label for each image"
        )
    if lonely := [kind for kind, count in counts.items() if count < 2]:
        raise DataError(
            f"there is one training image of {', '.join(map(printable, sorted(lonely)[:5]))}; want "
            "two of each kind, and ten to be worth it"
        )
