"""From the journal to the store, in a thread of its own: inspections never wait for a database."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Float

from record.journal import Entry, Journal
from record.result import FIELDS, Result
from record.store import RowRefused, Store, StoreError
from record.tables import Moment, results

_log = logging.getLogger(__name__)
_ROWS = 500  # in one transaction
_IDLE_S = 1.0
_FORGET_S = 60.0
_PATIENCE_S = (0.2, 10.0)  # first and longest pause while the store does not answer
_MOST_DEBRIS = 100_000  # bytes of one line that are kept
_COLUMNS = {name: results.c[name] for name in FIELDS}
_RENAMED = {"recipe": "program"}  # in a journal that an older version left
_MOMENTS = ("inspected_at", "triggered_at")


class Writer:
    """Keeps rows in a journal and brings them into the store as soon as it takes them.

    `open_store` is called when there is no connection; what it raises is an outage like any other.
    A row that the store refuses for good is put into `refused.jsonl` beside the journal, so that it
    keeps no other one waiting. Results older than `keep_days` are deleted while nothing else is to
    be done.
    """

    def __init__(
        self,
        journal: Journal,
        open_store: Callable[[], Store],
        refused: Path,
        *,
        keep_days: float = math.inf,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_refused = on_refused
        self._keep_days = keep_days
        self._forgot = -math.inf  # when nothing old was left, on the clock of `time.monotonic`
        self._journal = journal
        self._open_store = open_store
        self._refused = refused
        self._store: Store | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._is_reported = False
        self._thread = threading.Thread(target=self._work, name="record", daemon=True)
        self._thread.start()

    @property
    def bytes_behind(self) -> int:
        """How much waits for the store."""
        return self._journal.bytes_behind

    @property
    def is_away(self) -> bool:
        """Whether the store did not take rows when it was last tried, or nobody tries any more."""
        return self._is_reported or not self._thread.is_alive()

    def keep(self, result: Result) -> bool:
        """Keep a result, in microseconds; False where the journal is full or its disk is."""
        row = result.row()
        moments = {name: row[name].isoformat() for name in _MOMENTS if row[name] is not None}
        is_kept = self._journal.append(row | moments)
        self._wake.set()
        return is_kept

    def close(self, timeout_s: float = 10.0) -> None:
        """Bring over what can be brought in time; the rest waits for the next start."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._journal.close()

    def _work(self) -> None:
        pause = _PATIENCE_S[0]
        while True:
            try:
                if not self._step():
                    break
                pause = _PATIENCE_S[0]
            except Exception as error:  # noqa: BLE001  (without this thread nothing is stored)
                self._failed(error)
                if self._closing.wait(pause):
                    break
                pause = min(2 * pause, _PATIENCE_S[1])
        if self._store is not None:
            self._store.close()

    def _step(self) -> bool:
        """Bring over what waits, or wait; False where there is no more to do."""
        entries = self._journal.read(_ROWS)
        if entries:
            self._bring(entries)
            self._recovered()
        elif self._closing.is_set():
            return False
        elif not self._forget():
            self._wake.wait(_IDLE_S)
            self._wake.clear()
        return True

    def _forget(self) -> bool:
        """Delete some old results if it is time; True where more may be left."""
        if math.isinf(self._keep_days) or time.monotonic() < self._forgot + _FORGET_S:
            return False
        if self._store is None:
            self._store = self._open_store()
        if self._store.forget(datetime.now(UTC) - timedelta(days=self._keep_days)):
            return True
        self._forgot = time.monotonic()
        return False

    def _bring(self, entries: Sequence[Entry]) -> None:
        if self._store is None:
            self._store = self._open_store()
        try:
            if rows := [_result_of(entry) for entry in entries if entry.row is not None]:
                self._store.add(rows)
        except RowRefused as error:
            if len(entries) > 1:
                for entry in entries:
                    self._bring([entry])
                return
            self._set_aside(json.dumps(entries[0].row), str(error))
        for entry in entries:
            if entry.debris:
                self._set_aside(
                    _printable(entry.debris), "a line of the journal has no row, or more than one"
                )
        self._journal.done(entries)

    def _set_aside(self, text: str, problem: str) -> None:
        _log.error("a line is kept in %s, not in the store: %s", self._refused, problem)
        with self._refused.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        self._on_refused()

    def _failed(self, error: Exception) -> None:
        expected = isinstance(error, StoreError | OSError)
        if not self._is_reported:
            _log.warning(
                "results wait in the journal: %s", error, exc_info=None if expected else error
            )
            self._is_reported = True
        if self._store is not None:
            self._store.close()
            self._store = None

    def _recovered(self) -> None:
        if self._is_reported:
            _log.warning("the store takes results again")
            self._is_reported = False


def _result_of(entry: Entry) -> Result:
    """Return the result that a line of the journal is; raises `RowRefused` where it is none."""
    row = {_RENAMED.get(name, name): value for name, value in (entry.row or {}).items()}
    if unknown := row.keys() - _COLUMNS.keys():
        raise RowRefused(f"a row has what no result has: {sorted(unknown)[:5]}")
    return Result(**{name: _value(column, row.get(name)) for name, column in _COLUMNS.items()})


def _value(column: Column[Any], value: Any) -> Any:
    """Check a value against its column: SQLite would take anything, and answer with it."""
    if value is None:
        if not column.nullable:
            raise RowRefused(f"a row has no {column.name}")
        return None
    try:
        if isinstance(column.type, Moment):
            return datetime.fromisoformat(value)
        if isinstance(column.type, Float) and not isinstance(value, bool | str):
            value = float(value)
        kind = dict | list if isinstance(column.type, JSON) else column.type.python_type
        is_finite = not isinstance(value, float) or math.isfinite(value)
        if isinstance(value, kind) and is_finite:
            if isinstance(value, str):
                value.encode("utf-8")
            return value
    except (ValueError, TypeError, OverflowError) as error:
        raise RowRefused(f"a row's {column.name} cannot be stored: {error}") from error
    raise RowRefused(f"a row's {column.name} is {value!r:.100}")


def _printable(debris: bytes) -> str:
    """Bytes as a line of JSON, the first of very many."""
    beginning = debris[:_MOST_DEBRIS]
    return json.dumps({"bytes": len(debris), "unreadable": beginning.decode("latin-1")})
