"""Who changed what: a file of rows, each sealed with the hash of the one before.

A row that was altered, removed or put in between breaks the chain, and `verify` says where; after a
kill in the middle of adding it does so until the next row is added, which notes the recovery. The
number and hash of the last row are kept beside it and, as a witness, beside the journal of results,
so that rows cut off the end are missed too, and the whole trail where it is gone. Whoever can write
all of it can still write all anew: a copy of the last hash kept elsewhere seals the past against
that.

    audit.jsonl              one JSON object a line: number, at, by, action, subject, details,
                             before, hash
    audit.head               number and hash of the last row
    journal/audit.witness    the same, never set back
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from record.lock import FileLock
from record.result import JsonObject

_START = "0" * 64
_LOCK_S = 5.0  # longest that a row waits for whoever else adds one
_BLOCK_BYTES = 65_536
_MOST_TAIL_BYTES = 8_000_000  # of a long trail no more is read to show its end


class AuditBroken(Exception):
    """The audit trail was changed; `code` is stable."""

    code = "audit_broken"


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of the last row; 0 and zeros before the first."""

    number: int = 0
    hash: str = _START


class Audit:
    """Appends and verifies; several processes may do so at once."""

    def __init__(self, folder: Path) -> None:
        self._rows = folder / "audit.jsonl"
        self._head = folder / "audit.head"
        self._witness = folder / "journal/audit.witness"
        self._results = (folder / "results.db", folder / "journal/position.json")

    def add(self, action: str, subject: str, by: str | None, **details: Any) -> Head:
        """Append a row: `by` did `action` to `subject`. Raises `OSError` if it cannot be written.

        Waits some seconds for whoever else holds the trail: not to be called on an event loop.
        """
        self._rows.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            before = self._recovered(_read_head(self._head))
            return self._add(before, action, subject, by=by, details=details)

    def _add(
        self, before: Head, action: str, subject: str, *, by: str | None, details: JsonObject
    ) -> Head:
        row = {
            "number": before.number + 1,
            "at": datetime.now(UTC).isoformat(),
            "by": by,
            "action": action,
            "subject": subject,
            "details": details,
            "before": before.hash,
        }
        head = Head(before.number + 1, _seal(row))
        self._append(row | {"hash": head.hash})
        _write_head(self._head, head)
        self._testify(before, head)
        return head

    def _recovered(self, head: Head) -> Head:
        """Finish what a process that was killed while adding left half done, and say so in a row.

        It can leave one whole row that the head does not know yet, or the beginning of one.
        Anything else is left for `verify` to find.
        """
        lines = self._rows.read_bytes().split(b"\n") if self._rows.exists() else [b""]
        last_line = lines[-1]  # empty where the last row is whole
        if last_line:
            os.truncate(self._rows, self._rows.stat().st_size - len(last_line))
            cut = hashlib.sha256(last_line).hexdigest()
            return self._add(
                head, "recovered", "half a row was cut off", by=None, details={"sha256": cut}
            )
        if len(lines) - 1 == head.number + 1:
            with contextlib.suppress(ValueError):
                row = json.loads(lines[-2])
                if row.get("before") == head.hash and row.get("hash") == _seal(row):
                    recovered = Head(head.number + 1, str(row["hash"]))
                    details = {"row": recovered.number}
                    return self._add(
                        recovered, "recovered", "the head lagged", by=None, details=details
                    )
        return head

    def rows(self) -> Iterator[JsonObject]:
        """Yield the rows, the oldest first, as they are."""
        if self._rows.exists():
            with self._rows.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)

    def newest(self, limit: int, subject: str | None = None) -> list[JsonObject]:
        """Return the last rows, the newest first, those of one subject or all.

        Only the end of a long trail is searched. Half a row, which somebody is just adding, and
        one whose seal is wrong are left out: what is wrong with a trail, `verify` says.
        """
        rows: list[JsonObject] = []
        for line in self._lines_from_the_end():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                is_sealed = isinstance(row, dict) and row.get("hash") == _seal(row)
                if is_sealed and subject in (None, row["subject"]):
                    rows.append(row)
            if len(rows) == limit:
                break
        return rows

    def _lines_from_the_end(self) -> Iterator[bytes]:
        if not self._rows.exists():
            return
        with self._rows.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            first = max(0, end - _MOST_TAIL_BYTES)
            beginning = b""  # of a line that goes on in the block after
            while end > first:
                start = max(first, end - _BLOCK_BYTES)
                file.seek(start)
                beginning, *lines = (file.read(end - start) + beginning).split(b"\n")
                yield from reversed(lines)
                end = start
            if end == 0:
                yield beginning

    def verify(self) -> Head:
        """Raise `AuditBroken`, naming the first bad row, if a seal is wrong or a row is missing.

        The witness beside the journal has seen a row; where that is missing, so are all after it.
        Where there are results, there is a row of the start that came before them.
        """
        last, witness = Head(), _read_head(self._witness)
        try:
            for row in self.rows():
                number = last.number + 1
                if row.get("number") != number or row.get("before") != last.hash:
                    raise AuditBroken(
                        f"row {number} of {self._rows} is missing, or was put in between"
                    )
                if row.get("hash") != _seal(row):
                    raise AuditBroken(f"row {number} of {self._rows} was altered")
                last = Head(number, str(row["hash"]))
                if number == witness.number and last != witness:
                    raise AuditBroken(
                        f"row {number} of {self._rows} is not the one that was written"
                    )
        except ValueError as error:
            raise AuditBroken(
                f"row {last.number + 1} of {self._rows} is no row: {error}"
            ) from error
        if last.number < witness.number:
            raise AuditBroken(
                f"{self._rows} ends with row {last.number}, though row {witness.number} was "
                f"written: {witness.number - last.number} or more are gone"
            )
        if not last.number and any(path.exists() for path in self._results):
            raise AuditBroken(f"there are results, but no row in {self._rows}: the trail is gone")
        if last != (head := _read_head(self._head)):
            raise AuditBroken(
                f"{self._rows} ends with row {last.number}, where row {head.number} should be "
                "the last"
            )
        return last

    def copy(self, folder: Path) -> Head:
        """Copy the trail into another folder while nobody adds to it, and verify the copy."""
        with self._locked():
            for file in (self._rows, self._head):
                if file.exists():
                    shutil.copy2(file, folder)
        copy = Audit(folder)
        head = copy.verify()
        copy._testify(Head(), head)
        return head

    def _append(self, row: JsonObject) -> None:
        fd = os.open(self._rows, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(fd, json.dumps(row, sort_keys=True).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)

    def _testify(self, before: Head, head: Head) -> None:
        """Let the witness see a row; if it has seen one that is gone, it stays for `verify`."""
        witness = _read_head(self._witness)
        if witness.number and witness != before and not self._has(witness):
            return
        self._witness.parent.mkdir(exist_ok=True)
        _write_head(self._witness, head)

    def _has(self, head: Head) -> bool:
        with contextlib.suppress(ValueError):
            return any(row.get("hash") == head.hash for row in self.rows())
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._rows.with_suffix(".lock"))
        lock.acquire(_LOCK_S)
        try:
            yield
        finally:
            lock.release()


def _read_head(path: Path) -> Head:
    if not path.exists():
        return Head()
    try:
        number, value = path.read_text().split()
        return Head(int(number), value)
    except ValueError as error:
        raise AuditBroken(f"{path} is damaged: {error}") from error


def _write_head(path: Path, head: Head) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f"{head.number} {head.hash}\n")
    temporary.replace(path)


def _seal(row: JsonObject) -> str:
    """SHA-256 of a row without its own hash, in a form independent of the order of keys."""
    bare = {key: value for key, value in row.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()
