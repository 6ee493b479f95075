"""Calibrations and switches of models in a period, from the audit trail. Nothing is locked."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from record.audit import Audit
from record.result import JsonObject
from service.report.period import Period

_ACTIONS = ("start", "calibrate", "activate", "rollback")
_MOST_LISTED = 100


@dataclass(frozen=True, slots=True)
class Change:
    """Who did what to a model, and when; `by` is None where the service did it by itself."""

    at: datetime
    by: str | None
    action: str
    model: str
    details: JsonObject


@dataclass(frozen=True, slots=True)
class Changes:
    """The last changes of a period, and how many `more` came before those listed.

    `is_readable` is False where a row of the audit trail is damaged, or there is no trail.
    """

    listed: tuple[Change, ...] = ()
    more: int = 0
    is_readable: bool = True


def changes_in(audit: Audit | None, period: Period) -> Changes:
    """Read the trail from its beginning, row by row; a damaged row ends it."""
    if audit is None:
        return Changes(is_readable=False)
    last: deque[Change] = deque(maxlen=_MOST_LISTED)
    count, is_readable = 0, True
    try:
        for change in _changes(audit):
            if period.since <= change.at < period.until:
                last.append(change)
                count += 1
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        is_readable = False
    return Changes(tuple(last), count - len(last), is_readable)


def _changes(audit: Audit) -> Iterator[Change]:
    for row in audit.rows():
        if row["action"] in _ACTIONS:
            at = datetime.fromisoformat(row["at"])
            yield Change(at, row["by"], row["action"], str(row["subject"]), dict(row["details"]))
