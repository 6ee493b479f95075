"""Whether long work shows how far it is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """Bars on the terminal, or none."""

    is_shown: bool = True

    def bar(self, desc: str, *, total: int, unit: str, initial: int = 0) -> "tqdm[Any]":
        """Return a bar to be updated, as a context."""
        return tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=not self.is_shown)

    def each(self, items: Iterable[T], desc: str, *, total: int, unit: str) -> Iterator[T]:
        """Yield the items, with a bar that counts them."""
        yield from tqdm(items, desc=desc, total=total, unit=unit, disable=not self.is_shown)

    def within(self, *, is_first: bool) -> "Progress":
        """Return what one of several processes shows: the first one alone shows bars."""
        return self if is_first else QUIET


SHOWN = Progress()
QUIET = Progress(is_shown=False)
