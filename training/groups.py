"""Which images are independent, and which are held out: grouping comes before splitting.

Images of one session are one group. Copies of one file are one group too, whatever they are called,
and so are the sessions that share one. A held-out split takes whole groups.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.errors import DataError
from training.identity import with_digests
from training.samples import Sample, printable

_SHARE = 0.2
_LEAST_GROUPS = 2  # what a calibration needs, and a training


def with_groups(samples: Sequence[Sample], group_by: str | None) -> list[Sample]:
    """Set each sample's session.

    `group_by` is `image` (every image by itself), `session` (as the manifest says, or every image
    by itself), `folder`, or a regular expression on the path, first below the set, whose first
    group names the session. Copies of one file fall into one session. Raises `DataError` where a
    pattern does not fit.
    """
    return with_copies_together(regrouped(samples, group_by))


def regrouped(samples: Sequence[Sample], group_by: str | None) -> list[Sample]:
    """Set each sample's session, without regard to copies."""
    return [_regroup(sample, group_by) for sample in samples]


def _regroup(sample: Sample, group_by: str | None) -> Sample:
    name = sample.name or str(sample.path)
    match group_by:
        case None | "session":
            return sample
        case "image":
            return replace(sample, session=name)
        case "folder":
            return replace(sample, session=str(Path(name).parent))
    try:
        matched = re.search(group_by, name) or re.search(group_by, str(sample.path))
    except re.error as error:
        raise DataError(f"--group-by {group_by!r} is no regular expression: {error}") from error
    if matched is None or not matched.groups() or not matched.group(1):
        raise DataError(
            f"--group-by {group_by!r} finds no group in {printable(name)}; put the part of the "
            "name that is the session into parentheses, or choose image, session or folder"
        )
    return replace(sample, session=matched.group(1))


def with_copies_together(samples: Iterable[Sample]) -> list[Sample]:
    """Give samples of the same bytes or picture one session, and all others of their sessions."""
    samples = with_digests(samples)
    leader: dict[str, str] = {}

    def root(session: str) -> str:
        while (above := leader.get(session, session)) != session:
            leader[session] = leader.get(above, above)
            session = above
        return session

    first: dict[str, str] = {}
    for sample in samples:
        if sample.shows:
            leading, joining = (
                root(first.setdefault(sample.shows, sample.session)),
                root(sample.session),
            )
            leader[max(leading, joining)] = min(leading, joining)
    return [replace(s, session=root(s.session)) for s in samples]


def with_copies_together_within(samples: Sequence[Sample]) -> list[Sample]:
    """Make copies one part: within the test split and within the others, never across."""
    test = iter(with_copies_together(s for s in samples if s.split == "test"))
    together = iter(with_copies_together(s for s in samples if s.split != "test"))
    return [next(test if sample.split == "test" else together) for sample in samples]


def copies(samples: Iterable[Sample]) -> int:
    """Return how many of the images are copies of another one."""
    digests = [sample.digest for sample in samples if sample.digest]
    return len(digests) - len(set(digests))


def undrawn(samples: Iterable[Sample]) -> list[Sample]:
    """Put what was drawn into other splits back into training."""
    return [replace(s, split="train") if s.drawn_into else s for s in samples]


def held_out(samples: Sequence[Sample]) -> list[Sample]:
    """Move a fifth of the groups into each split that the set lacks; see `Sample.drawn_into`."""
    for split in ("test", "validation"):
        samples = list(_draw(samples, split))
    return list(samples)


def _draw(samples: Sequence[Sample], split: str) -> Iterator[Sample]:
    free = [s for s in samples if s.split == "train" and split in s.drawn_into and s.is_normal]
    sessions = sorted({sample.session for sample in free})
    order = np.random.default_rng(0).permutation(len(sessions))
    count = max(1, round(_SHARE * len(sessions))) if len(sessions) >= _LEAST_GROUPS else 0
    drawn_sessions = {sessions[i] for i in order[:count]}
    for sample in samples:
        is_chosen = sample.split == "train" and split in sample.drawn_into
        yield (
            replace(sample, split=split)
            if is_chosen and sample.session in drawn_sessions
            else sample
        )


def without_shared(samples: Sequence[Sample]) -> tuple[list[Sample], int]:
    """Leave out copies of training images, near ones too, from the validation split.

    Returns the others, and how many were left out.

    Raises `DataError` if the two share a session in another way.
    """
    trained = {s.shows for s in samples if s.split == "train" and s.is_normal and s.shows}
    sessions = {s.session for s in samples if s.split == "train" and s.is_normal}
    remaining = [s for s in samples if s.split != "validation" or s.shows not in trained]
    for sample in remaining:
        if sample.split == "validation" and sample.is_normal and sample.session in sessions:
            raise DataError(
                f"the session {printable(sample.session)!r} is in training and in validation: what "
                "is calibrated on must be independent of what is trained on. Move it to one of "
                "them, or choose another --group-by"
            )
    return remaining, len(samples) - len(remaining)


def check_groups(samples: Sequence[Sample], group_by: str | None) -> None:
    """Raise `DataError` without enough groups to calibrate on: before the work, not after it."""
    sessions = {sample.session for sample in samples}
    if len(sessions) >= _LEAST_GROUPS:
        return
    if len(samples) < _LEAST_GROUPS:
        raise DataError(
            f"{len(samples)} image(s) to calibrate on; a calibration needs at least "
            f"{_LEAST_GROUPS} independent parts, and a few dozen to be worth it"
        )
    why = {
        None: f"are of one session, or copies of each other: {printable(next(iter(sessions)))}",
        "folder": "are in one folder: one group. Use --group-by image where each is another part, "
        "or a folder for each lot",
    }.get(
        group_by,
        f"are one group by --group-by {group_by}. Use --group-by image where each is another part",
    )
    raise DataError(
        f"all {len(samples)} images {why}; a calibration needs at least {_LEAST_GROUPS} "
        "independent groups"
    )
