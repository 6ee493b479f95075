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

from record.journal import Entry, Journal
from record.store import RowRefused, Store, StoreError

_log = logging.getLogger(__name__)
_ROWS = 500  # in one transaction
_IDLE_S = 1.0
_FORGET_S = 60.0
_PATIENCE_S = (0.2, 10.0)  # first and longest pause while the store does not answer
_MOMENTS = ("inspected_at", "triggered_at")


class Writer:
    """Keeps rows in a journal and brings them into the store as soon as it takes them.

    `open_store` is called when there is no connection; what it raises is an outage like any other. A row
    that the store refuses for good is put into `refused.jsonl` beside the journal, so that it keeps no
    other one waiting. Results older than `keep_days` are deleted while nothing else is to be done.
    """

    def __init__(
        self,
        journal: Journal,
        open_store: Callable[[], Store],
        refused: Path,
        keep_days: float = math.inf,
    ) -> None:
        self._keep_days = keep_days
        self._forgot = -math.inf  # when nothing old was left, on the clock of `time.monotonic`
        self._journal = journal
        self._open_store = open_store
        self._refused = refused
        self._store: Store | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._work, name="record", daemon=True)
        self._thread.start()

    @property
    def bytes_behind(self) -> int:
        """How much waits for the store."""
        return self._journal.bytes_behind

    @property
    def is_away(self) -> bool:
        """Whether the store did not take rows when it was last tried."""
        return self._told

    def keep(self, row: dict[str, Any]) -> bool:
        """Keep a row, in microseconds; False where the journal is full or its disk is."""
        moments = {name: row[name].isoformat() for name in _MOMENTS if row.get(name) is not None}
        kept = self._journal.append(row | moments)
        self._wake.set()
        return kept

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
                entries = self._journal.read(_ROWS)
                if entries:
                    self._bring(entries)
                    pause = _PATIENCE_S[0]
                    self._recovered()
                elif self._closing.is_set():
                    break
                elif not self._forget():
                    self._wake.wait(_IDLE_S)
                    self._wake.clear()
            except (StoreError, OSError) as error:
                self._failed(error)
                if self._closing.wait(pause):
                    break
                pause = min(2 * pause, _PATIENCE_S[1])
        if self._store is not None:
            self._store.close()

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
            self._store.add([_with_moments(entry.row) for entry in entries])
        except RowRefused as error:
            if len(entries) > 1:
                for entry in entries:
                    self._bring([entry])
                return
            self._set_aside(entries[0], error)
        self._journal.done(entries)

    def _set_aside(self, entry: Entry, error: RowRefused) -> None:
        _log.error("a result is kept in %s, not in the store: %s", self._refused, error)
        with self._refused.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry.row) + "\n")

    def _failed(self, error: Exception) -> None:
        if not self._told:
            _log.warning("results wait in the journal: %s", error)
            self._told = True
        if self._store is not None:
            self._store.close()
            self._store = None

    def _recovered(self) -> None:
        if self._told:
            _log.warning("the store takes results again")
            self._told = False


def _with_moments(row: dict[str, Any]) -> dict[str, Any]:
    """Turn the journal's texts back into moments."""
    found = {name: datetime.fromisoformat(row[name]) for name in _MOMENTS if row.get(name)}
    return row | found
