"""Nouns of labels: an `Instance` is one defect in an image, a `LabelSet` all labelled images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.annotations.shapes import Box, Mask, Shape, rectangle


@dataclass(frozen=True, slots=True)
class Instance:
    """One defect: its kind as written, its box (x, y, w, h), and its shape where one was drawn."""

    kind: str
    box: Box
    shape: Shape | None = None

    @classmethod
    def of(cls, kind: str, shape: Shape) -> "Instance":
        """Make an instance whose box is that of its shape."""
        return cls(kind, shape.box(), shape)

    def pixels(self, size: tuple[int, int]) -> Mask:
        """Return what it covers of an image of (H, W): its shape, or else its box."""
        return (self.shape or rectangle(self.box)).pixels(size)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image, its size (H, W), its instances, and `kinds` that it shows nobody said where.

    `name` is a path below the set, with slashes; `split` is empty where the set has none.
    """

    path: Path
    name: str
    size: tuple[int, int]
    instances: tuple[Instance, ...] = ()
    kinds: tuple[str, ...] = ()
    split: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing marks it as defective."""
        return not self.instances and not self.kinds

    def all_kinds(self) -> tuple[str, ...]:
        """Return its kinds, as first written, without regard to case."""
        spelt: dict[str, str] = {}
        for kind in (*(i.kind for i in self.instances), *self.kinds):
            spelt.setdefault(kind.casefold(), kind)
        return tuple(spelt.values())

    def of_kind(self, kind: str) -> tuple[Instance, ...]:
        """Return its instances of a kind, without regard to case."""
        return tuple(i for i in self.instances if i.kind.casefold() == kind.casefold())


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labelled images in a fixed order, and what is to be said of how they were read."""

    images: tuple[LabelledImage, ...]
    notes: tuple[str, ...] = field(default=())

    def kinds(self) -> dict[str, str]:
        """Return all kinds by their folded name, as first written, sorted."""
        spelt: dict[str, str] = {}
        for image in self.images:
            for kind in image.all_kinds():
                spelt.setdefault(kind.casefold(), kind)
        return dict(sorted(spelt.items()))

    def instances(self) -> Iterator[tuple[LabelledImage, Instance]]:
        """Yield every instance with its image."""
        return ((image, instance) for image in self.images for instance in image.instances)

    def has_splits(self) -> bool:
        """Whether any image has a split."""
        return any(image.split for image in self.images)
