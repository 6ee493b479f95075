"""Logs as JSON lines, one object each, with the id of the request they belong to.

Never logged: bodies, headers, query strings, secrets of URLs. What a caller may choose freely (a
path, a request id) is bounded before it gets here. No request ever waits for a line to be written.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal

from record.urls import without_secrets

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
ANYBODY = "anybody"  # the actor of a request where authentication is off
SERVICE = "service"
ACTOR: ContextVar[str] = ContextVar("actor", default=SERVICE)  # the key's name, in a request
TEXT = "%(levelname)s %(name)s: %(message)s"
# What every record has; the rest was given with `extra`.
_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


_hidden: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Keep these texts out of every line from now on, whoever writes it."""
    _hidden.update(secrets)


def _printable(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for secret in _hidden:
        value = value.replace(secret, "***")
    return without_secrets(value) if "://" in value else value


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, request id, and its extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line |= {key: value for key, value in vars(record).items() if key not in _RECORD_FIELDS}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({k: _printable(v) for k, v in line.items()}, default=str)


class PlainLines(logging.Formatter):
    """A record as text for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return str(_printable(super().format(record)))


class LineWriter(logging.Handler):
    """Writes lines to a file descriptor in a thread of its own.

    Whoever reads the log may stop (a pipe that nobody empties, a terminal on hold): a write blocks
    then, but nothing that logs does. Lines beyond `limit` are lost, and their number is the next
    line.
    """

    def __init__(self, descriptor: int, *, limit: int = 10_000, last_s: float = 2.0) -> None:
        super().__init__()
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._descriptor = descriptor
        self._limit = limit
        self._last_s = last_s
        self._handed_over = self._written = self._lost = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or count it as lost."""
        if self._handed_over - self._written >= self._limit:
            self._lost += 1
            return
        if self._lost:
            lost = {"name": __name__, "levelname": "WARNING", "levelno": logging.WARNING}
            message = f"{self._lost} lines of this log are lost: nobody read it"
            self._lost = 0
            self._hand_over(logging.makeLogRecord({**lost, "msg": message}))
        self._hand_over(record)

    def flush(self) -> None:
        """Wait for what was handed over, but not for a reader that has stopped."""
        until = time.monotonic() + self._last_s
        while self._written < self._handed_over and time.monotonic() < until:
            time.sleep(0.01)

    def _hand_over(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return
        self._handed_over += 1
        self._lines.put(line)

    def _write(self) -> None:
        while True:
            remaining = self._lines.get().encode(errors="backslashreplace") + b"\n"
            with contextlib.suppress(OSError):  # whoever read it has ended
                while remaining:
                    remaining = remaining[os.write(self._descriptor, remaining) :]
            self._written += 1


@contextlib.contextmanager
def log_to_stderr(style: Literal["json", "text"], level: str) -> Iterator[None]:
    """Send all logs, uvicorn's too, to standard error; what waits is written at the end."""
    # Started without one (2>&-), the number may be a database's by now: -1 writes nowhere.
    writer = LineWriter(-1 if sys.__stderr__ is None else sys.__stderr__.fileno())
    writer.setFormatter(JsonLines() if style == "json" else PlainLines(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[writer], force=True)
    try:
        yield
    finally:
        writer.flush()
