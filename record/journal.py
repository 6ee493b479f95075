"""An append-only file between answering a part and the database: nothing answered is lost.

A row is handed to the operating system before the part is answered, which takes microseconds and
survives the process, though not a power cut within the last seconds. A thread of its own brings
rows into the store (`record.writer`); whatever keeps it from doing so - a database that is down, a
crash, a restart - only lets the journal grow.

    journal/00000001.jsonl    rows, one JSON object a line; a file is left alone once
                              the next has begun
    journal/position.json     how far the store has them
"""

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from record.result import JsonObject

_log = logging.getLogger(__name__)
_POSITION = "position.json"
_FILE = re.compile(r"([0-9]{8,18})\.jsonl")
_ROW_START = re.compile(r'\{"')
_MOST_STARTS = 2000  # of objects in one line: a row has one for each of its regions


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: the file's number and bytes into it."""

    file: int = 1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, and the place behind it; `debris` is what stood in its line and is no row.

    `row` is None where the line has no row at all.
    """

    row: JsonObject | None
    end: Position
    debris: bytes = b""


class Journal:
    """Appends from any thread; one reader.

    `file_bytes` is where a new file begins; beyond `most_bytes` waiting for the store, rows are
    refused.
    """

    def __init__(
        self, folder: Path, *, file_bytes: int = 16_000_000, most_bytes: int = 2_000_000_000
    ) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._strays: set[str] = set()
        self._done = self._read_position()
        # Always a fresh file: the last one may end in half a row of a process that was killed.
        self._open(max([self._done.file, *self._numbers(), *self._locked()]) + 1)
        self._behind = self._count_behind()

    @property
    def bytes_behind(self) -> int:
        """How much the store does not have yet."""
        return self._behind

    def append(self, row: JsonObject) -> bool:
        """Keep a row; False where the journal is full or the disk refuses it."""
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._behind + len(line) > self._most_bytes:
                return False
            try:
                if self._offset >= self._file_bytes:
                    self._next_file()
                written = os.write(self._fd, line)
                if written < len(line):  # the disk is full: take the half row back
                    os.ftruncate(self._fd, self._offset)
                    return False
            except OSError:
                return False
            self._offset += len(line)
            self._behind += len(line)
        return True

    def read(self, limit: int) -> list[Entry]:
        """Return the oldest rows that the store does not have, without removing them."""
        entries: list[Entry] = []
        for number in self._numbers():
            if number < self._done.file:
                continue
            start = self._done.offset if number == self._done.file else 0
            entries += self._rows(number, start, limit - len(entries))
            if len(entries) >= limit:
                break
        return entries

    def done(self, entries: Sequence[Entry]) -> None:
        """The store has these, and all before them."""
        end = entries[-1].end
        with self._lock:
            self._write_position(end)
            self._done = end
            self._behind = self._count_behind()
        for number in self._numbers():
            if number < end.file:
                self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file that is written to; what the store lacks stays for the next start."""
        with self._lock:
            os.close(self._fd)

    def _rows(self, number: int, start: int, limit: int) -> Iterator[Entry]:
        offset = start
        with contextlib.suppress(FileNotFoundError), self._path(number).open("rb") as file:
            file.seek(start)
            for line in file:
                if limit <= 0 or not line.endswith(b"\n"):  # half a row was never answered
                    return
                offset += len(line)
                limit -= 1
                row, debris = _read_line(line)
                yield Entry(row, Position(number, offset), debris)

    def _next_file(self) -> None:
        os.close(self._fd)
        self._open(self._number + 1)

    def _open(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._number = number
        self._fd = os.open(self._path(number), flags, 0o640)
        self._offset = os.fstat(self._fd).st_size

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.jsonl"

    def _numbers(self) -> list[int]:
        """Numbers of the journal's files, in order; other files are left alone and told once."""
        numbers = []
        for path in self._folder.glob("*.jsonl"):
            match = _FILE.fullmatch(path.name)
            if match and path.is_file() and self._path(int(match[1])) == path:
                numbers.append(int(match[1]))
            elif path.name not in self._strays:
                self._strays.add(path.name)
                _log.warning("%s is no file of the journal, and is left alone", path)
        return sorted(numbers)

    def _locked(self) -> Iterator[int]:
        """Numbers whose names are taken, by whatever it is."""
        for path in self._folder.iterdir():
            if match := _FILE.fullmatch(path.name):
                yield int(match[1])

    def _count_behind(self) -> int:
        sizes = {n: self._path(n).stat().st_size for n in self._numbers() if n >= self._done.file}
        return sum(sizes.values()) - (self._done.offset if self._done.file in sizes else 0)

    def _read_position(self) -> Position:
        """Return the stored position, or the beginning where it is none of this journal's.

        Rows are then read again, and the store knows them by their ids.
        """
        try:
            values = json.loads((self._folder / _POSITION).read_text())
            position = Position(int(values["file"]), int(values["offset"]))
            if self._is_behind_a_row(position):
                return position
        except FileNotFoundError:
            return Position()
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            pass
        _log.warning("%s is damaged: rows are read again", self._folder / _POSITION)
        return Position()

    def _is_behind_a_row(self, position: Position) -> bool:
        if position.offset <= 0:
            return position.offset == 0 and position.file in (1, *self._numbers())
        path = self._path(position.file)
        if not path.is_file() or position.offset > path.stat().st_size:
            return False
        with path.open("rb") as file:
            file.seek(position.offset - 1)
            return file.read(1) == b"\n"

    def _write_position(self, position: Position) -> None:
        temporary = self._folder / f".{_POSITION}"
        temporary.write_text(json.dumps({"file": position.file, "offset": position.offset}))
        temporary.replace(self._folder / _POSITION)


def _read_line(line: bytes) -> tuple[JsonObject | None, bytes]:
    """Read a line: its row, and what stands before it; all of the line where there is none.

    A row that follows debris in one line is whole: rows are ASCII and end their line.
    """
    text = line.decode("latin-1")
    starts = [0, *(match.start() for match in _ROW_START.finditer(text))][-_MOST_STARTS:]
    for start in (0, *reversed(starts)):
        try:
            row = json.loads(text[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row, line[:start]
    return None, line
