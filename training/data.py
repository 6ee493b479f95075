"""Where images come from: any layout of folders, or a JSON-Lines manifest.

Everything becomes a list of `Sample`s with a split, so that the rest of the pipeline never looks at
folders, and a `Listing` that says what was taken and what was left out. Unreadable files are an
error that names them; skipping them is the caller's explicit wish.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from anomaly.image import EXTENSIONS
from training.errors import DataError
from training.files import read_tree
from training.groups import (
    check_groups,
    copies,
    held_out,
    regrouped,
    undrawn,
    with_copies_together_within,
    with_groups,
    without_shared,
)
from training.identity import with_digests
from training.layouts import Reading, read_layout
from training.manifest import read_manifest
from training.near import with_pictures
from training.progress import SHOWN, Progress
from training.samples import (
    NORMAL,
    SPLITS,
    Dataset,
    Listing,
    Sample,
    count_by_split,
    few_of,
    printable,
)
from training.truth import read_mask, said_of_masks

__all__ = [
    "NORMAL",
    "SPLITS",
    "Dataset",
    "Listing",
    "Sample",
    "calibration_images",
    "listed",
    "normal_images",
    "open_dataset",
    "read_mask",
    "regroup",
    "say",
    "training_paths",
]

_log = logging.getLogger(__name__)


def open_dataset(
    data: Path,
    group_by: str | None = None,
    *,
    near_copies: bool = True,
    progress: Progress = SHOWN,
) -> Dataset:
    """Read a set of any layout, group its images, and say what was taken and what was left out.

    To find `near_copies` every good part is read once, in small.

    A set without a validation split gives up a fifth of its training groups for one; a set of good
    and bad without any splits also gives up a fifth for a test. Raises `DataError` when there is
    nothing to read, or a mask without its image.
    """
    dataset = listed(data)
    if near_copies:
        dataset = _with_pictures(dataset, progress)
    dataset = regroup(dataset, group_by)
    say(dataset.listing)
    if len(dataset.samples) < 2 and dataset.normal("train"):
        raise DataError(
            f"{len(dataset.samples)} training image(s): too few to train and to calibrate on "
            "others; collect at least a few dozen normal images"
        )
    return dataset


def _with_pictures(dataset: Dataset, progress: Progress) -> Dataset:
    samples = with_pictures(with_digests(dataset.samples), progress)
    return replace(dataset, samples=tuple(samples))


def calibration_images(
    data: Path, group_by: str | None = None, *, progress: Progress = SHOWN
) -> Dataset:
    """Return good parts to calibrate on: a set's validation split, or all of one without splits.

    Raises `DataError` when there are none.
    """
    dataset = _with_pictures(listed(data), progress)
    drawn = regroup(dataset, None).samples
    to_calibrate = [s for s in drawn if s.is_normal and _is_to_calibrate(s)]
    remaining = [s for s in drawn if not (s.is_normal and _is_to_calibrate(s))]
    if not to_calibrate:
        raise DataError(
            f"no held-out normal images in {printable(data)} ({dataset.listing.summary()}); want a "
            "validation split, or a folder of good parts that the model was not trained on"
        )
    samples = with_groups(
        [replace(s, split="validation", drawn_into=()) for s in to_calibrate], group_by
    )
    check_groups(samples, group_by)
    left_out = {f"images of {name}": count for name, count in count_by_split(remaining).items()}
    listing = replace(
        dataset.listing,
        taken=count_by_split(samples),
        left_out=left_out | dict(dataset.listing.left_out),
        notes=(
            *dataset.listing.notes,
            *_said_of_splits(data, to_calibrate),
            *_said_of_copies(samples),
        ),
    )
    say(listing)
    return Dataset(data, tuple(samples), listing)


def _is_to_calibrate(sample: Sample) -> bool:
    return sample.split == "validation" or "train" in sample.drawn_into


def normal_images(data: Path) -> list[Sample]:
    """Return images to calibrate on; see `calibration_images`."""
    return list(calibration_images(data).samples)


def training_paths(data: Path) -> Iterator[Path]:
    """Yield good parts to pretrain on: those below a folder, of one set or more, or of a manifest.

    A set with splits, or with good and bad apart, gives its training split without held-out images;
    a folder or manifest of nothing but good parts gives all. Only sets are ever held in memory.
    """
    reading = _opened(data)
    counts: Counter[str] = Counter()
    of_sets: list[Sample] = []
    for sample in _samples(data, reading):
        if sample.drawn_into == ("train", "validation"):
            counts["train/good"] += 1
            yield sample.path
        else:
            of_sets.append(sample)
    for sample in held_out(of_sets):
        if sample.is_normal and sample.split == "train":
            counts["train/good"] += 1
            yield sample.path
        else:
            reading.left_out[f"images of {sample.split}/{printable(sample.label)}"] += 1
    say(reading.listing(counts))


def listed(data: Path) -> Dataset:
    """Read the set without grouping it, with only the splits that it has itself."""
    reading = _opened(data)
    samples = list(_samples(data, reading))
    reading.notes += said_of_masks(samples)
    listing = reading.listing(count_by_split(samples))
    if not samples:
        raise DataError(
            f"no images in {printable(data)} ({listing.summary()}); want train/good/ (MVTec "
            "layout), good/ and bad/, images in the folder itself, or a .jsonl manifest. Files "
            f"read: {', '.join(EXTENSIONS)}"
        )
    return Dataset(data, tuple(samples), listing)


def _opened(data: Path) -> Reading:
    if not data.exists():
        raise DataError(f"{printable(data)} does not exist")
    return Reading(data)


def _samples(data: Path, reading: Reading) -> Iterator[Sample]:
    if data.is_file():
        reading.layouts["manifest"] = 1
        yield from read_manifest(data, reading.notes)
    else:
        yield from read_layout(read_tree(data, reading.left_out), reading)


def regroup(dataset: Dataset, group_by: str | None) -> Dataset:
    """Group anew, and then draw anew the splits that the set itself does not have.

    Raises `DataError` where a session is in training and in validation.
    """
    samples, shared = without_shared(with_digests(_regrouped(dataset.samples, group_by)))
    drawn = held_out(with_copies_together_within(samples))
    listing = dataset.listing
    left_out = dict(listing.left_out)
    if shared:
        left_out["validation images that are copies of training images"] = shared
    notes = [*listing.notes, *_said_of_copies(drawn)]
    complete_listing = replace(
        listing, taken=count_by_split(drawn), left_out=left_out, notes=tuple(dict.fromkeys(notes))
    )
    return replace(dataset, samples=tuple(drawn), listing=complete_listing)


def _regrouped(samples: Sequence[Sample], group_by: str | None) -> list[Sample]:
    """Group what is trained and calibrated on; names of test images need not fit the pattern."""
    return [
        regrouped([sample], group_by)[0] if sample.is_normal and sample.split != "test" else sample
        for sample in undrawn(samples)
    ]


def say(listing: Listing) -> None:
    """Log what was taken and what was left out."""
    is_odd = any(
        kind.startswith(("images in", "images outside", "images beside")) or "not read" in kind
        for kind in listing.left_out
    )
    _log.log(logging.WARNING if is_odd else logging.INFO, "%s", listing.summary())
    for note in listing.notes:
        _log.warning("%s", note)


def _said_of_splits(data: Path, to_calibrate: Sequence[Sample]) -> Iterator[str]:
    if data.is_file() and any(sample.drawn_into for sample in to_calibrate):
        yield f"{printable(data)} has no splits: all of its good parts are calibrated on"


def _said_of_copies(samples: Sequence[Sample]) -> Iterator[str]:
    learned = [s for s in samples if s.is_normal and s.split != "test"]
    test = [s for s in samples if s.split == "test"]
    if count := copies(learned):
        yield f"{count} images are exact copies of others: with those they count as one part"
    near = {s.digest: s for s in learned if s.picture and s.picture != s.digest}
    if near:
        yield (
            f"{len(near)} images are near copies of others, as frames of a burst are: with those "
            f"they count as one part ({few_of([printable(s.name) for s in near.values()])})"
        )
    if count := copies(test):
        yield f"{count} test images are exact copies of other ones: they weigh more in the figures"
    shown = {s.shows for s in learned if s.shows}
    if repeated := [printable(s.name) for s in test if s.shows in shown]:
        yield (
            f"{len(repeated)} test images are copies of images trained or calibrated on, exact or "
            f"near ones: {few_of(repeated)}"
        )
