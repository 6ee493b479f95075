"""How far long work is: as bars on the terminal, or in a file for whoever looks from elsewhere."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_log = logging.getLogger(__name__)
_BETWEEN_S = 0.5  # two writes of a file, within one stage


class ProgressFile:
    """A JSON object that is replaced as work goes on; a reader sees an old one or a new one.

    A disk that takes nothing more does not end the work.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._staging = path.with_name(f".{path.name}.new")
        self._written_at = -_BETWEEN_S
        self._failed = False

    def write(self, state: dict[str, Any], *, at_once: bool = False) -> None:
        """Replace the object, unless that was done a moment ago."""
        now = time.monotonic()
        if not at_once and now - self._written_at < _BETWEEN_S:
            return
        self._written_at = now
        try:
            self._staging.write_text(json.dumps(state), encoding="utf-8")
            self._staging.replace(self._path)
        except OSError as error:
            if not self._failed:
                _log.warning("progress cannot be written to %s: %s", self._path, error)
            self._failed = True


class Bar:
    """Counts what is done of one stage; a context."""

    def __init__(
        self, shown: "tqdm[Any]", stage: str, *, initial: int, file: ProgressFile | None
    ) -> None:
        self._shown = shown
        self._file = file
        self._initial = initial
        self._began = time.monotonic()
        self._state: dict[str, Any] = {
            "stage": stage,
            "done": initial,
            "total": shown.total,
            "images_per_s": None,
            "left_s": None,
            "loss": None,
        }
        self._write(at_once=True)

    @property
    def done(self) -> int:
        """How many are done, those before this run included."""
        count: int = self._state["done"]
        return count

    def update(self, count: int = 1) -> None:
        """Count so many more."""
        self._shown.update(count)
        self._state["done"] += count
        passed_s = time.monotonic() - self._began
        fresh = self._state["done"] - self._initial
        if self._shown.unit == "image" and passed_s:
            self._state["images_per_s"] = round(fresh / passed_s, 1)
        if self._state["total"] is not None and fresh:
            left_s = passed_s / fresh * (self._state["total"] - self._state["done"])
            self._state["left_s"] = round(max(0.0, left_s), 1)
        self._write()

    def tell(self, text: str, *, loss: float, images_per_s: float) -> None:
        """Add a text to the bar, and its figures to the file."""
        self._shown.set_postfix_str(text)
        self._state |= {"loss": loss, "images_per_s": images_per_s}
        self._write()

    def _write(self, *, at_once: bool = False) -> None:
        if self._file is not None:
            self._file.write(self._state, at_once=at_once)

    def __enter__(self) -> Self:
        """Return the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._shown.close()


@dataclass(frozen=True, slots=True)
class Progress:
    """Bars on the terminal, or none; and a `file` of the stage that runs, or none."""

    is_shown: bool = True
    file: ProgressFile | None = None

    def bar(self, desc: str, *, total: int, unit: str, initial: int = 0) -> Bar:
        """Return a bar to be updated, as a context."""
        shown = tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=not self.is_shown)
        # A bar that is not shown keeps neither.
        shown.total, shown.unit = total, unit
        return Bar(shown, desc, initial=initial, file=self.file)

    def each(self, items: Iterable[T], desc: str, *, total: int, unit: str) -> Iterator[T]:
        """Yield the items, with a bar that counts them."""
        with self.bar(desc, total=total, unit=unit) as bar:
            for item in items:
                yield item
                bar.update()

    def within(self, *, is_first: bool) -> "Progress":
        """Return what one of several processes shows: the first one alone shows bars."""
        return self if is_first else QUIET


SHOWN = Progress()
QUIET = Progress(is_shown=False)


def progress_to(path: Path | None) -> Progress:
    """Return bars on the terminal, or a file instead of them."""
    return SHOWN if path is None else Progress(is_shown=False, file=ProgressFile(path))
