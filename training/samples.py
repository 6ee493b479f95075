"""Nouns of the data: `Sample` is an image, `Dataset` a set of them, `Listing` what was taken."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NORMAL = "good"
_MOST_SAID = 20  # kinds in one line
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a set: `label` is `good` or the kind of defect, `session` its lot or part.

    `mask` is its ground truth: a picture, or a folder of several that count together. `name` is the
    path below the set, `digest` the SHA-256 of the file's bytes, `picture` one for near copies
    (`training.near`); each is empty where nobody has looked yet. `drawn_into` names the splits that
    a set does not have and that are drawn here; `train` is among them where it has no splits at
    all. `quality` is the JPEG quality at which the image is recompressed when it is read; None: it
    is read as it is.
    """

    path: Path
    label: str
    split: str
    session: str
    mask: Path | None = None
    name: str = ""
    digest: str = ""
    drawn_into: tuple[str, ...] = ()
    quality: int | None = None
    picture: str = ""

    @property
    def shows(self) -> str:
        """What copies have in common, near ones too where somebody looked; empty: nobody did."""
        return self.picture or self.digest

    @property
    def is_normal(self) -> bool:
        """Whether the image shows a good part."""
        return self.label == NORMAL


@dataclass(frozen=True, slots=True)
class Listing:
    """What was taken of a set (by split and label), what was left out (by kind), and notes."""

    source: str = ""
    layout: str = ""
    taken: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Say it in one line."""
        taken_text = few_of([f"{count} {name}" for name, count in self.taken.items()], _MOST_SAID)
        line = (
            f"{sum(self.taken.values())} images in {self.source} ({self.layout}): "
            f"{taken_text or 'none'}"
        )
        left_out = ", ".join(f"{count} {kind}" for kind, count in self.left_out.items())
        return f"{line}; left out: {left_out}" if left_out else line

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self) | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Dataset:
    """All samples of a set, in a fixed order, and how they were listed."""

    root: Path
    samples: tuple[Sample, ...]
    listing: Listing = Listing()

    def select(self, split: str) -> list[Sample]:
        """Return the samples of one split."""
        return [sample for sample in self.samples if sample.split == split]

    def normal(self, split: str) -> list[Sample]:
        """Return the good parts of one split."""
        return [sample for sample in self.select(split) if sample.is_normal]


def count_by_split(samples: Iterable[Sample]) -> dict[str, int]:
    """Count samples by split and label, in the order of a set."""
    counts = Counter((SPLITS.index(s.split), not s.is_normal, s.label) for s in samples)
    return {
        f"{SPLITS[split]}/{printable(label)}": counts[split, bad, label]
        for split, bad, label in sorted(counts)
    }


def printable(text: object) -> str:
    """Return a path or name that can be printed: bytes that are not UTF-8 become escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def few_of(names: Sequence[str], limit: int = 3) -> str:
    """Name a few of many."""
    remaining = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {remaining} more" if remaining > 0 else "")
