"""Which results are wanted, in which order, and from where on: the questions put to the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, Subquery, and_, exists, false, func, or_, select

from record.result import WITHDRAWN, Result
from record.tables import feedback, results

Order = Literal["newest", "oldest"]
NOTHING_SAID = "none"
VERDICTS = ("OK", "WARN", "NG")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OLDEST_MARK = "o"  # of a cursor, so that it is not taken for one of the other order


@dataclass(frozen=True, slots=True)
class Filter:
    """Which results are wanted; None is any. `since` is included, `until` is not.

    `verdict` may be several. `feedback` is what was said last, `NOTHING_SAID` where nothing is;
    `defect` is the name that was given with it. `search` is how a part's id or its lot begins.
    """

    model: str | None = None
    camera: str | None = None
    lot: str | None = None
    part_id: str | None = None
    verdict: str | Sequence[str] | None = None
    feedback: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    defect: str | None = None
    kept: bool | None = None
    search: str | None = None

    def by_verdict(self) -> list["Filter"]:
        """Return filters of at most one verdict that together are this one, without overlap."""
        verdicts = self.verdict
        if verdicts is None and self.kept:
            verdicts = VERDICTS  # the index of what is kept begins with them
        if verdicts is None or isinstance(verdicts, str):
            return [self]
        return [replace(self, verdict=verdict) for verdict in dict.fromkeys(verdicts)]

    def on(self, statement: "Select[Any]") -> "Select[Any]":
        """Restrict a query."""
        for name in ("model", "camera", "lot", "part_id"):
            if (value := getattr(self, name)) is not None:
                statement = statement.where(results.c[name] == value)
        if isinstance(self.verdict, str):
            statement = statement.where(results.c.verdict == self.verdict)
        elif self.verdict is not None:
            statement = statement.where(results.c.verdict.in_(self.verdict))
        if self.kept is not None:
            is_kept = results.c.kept.is_(True)
            is_not = or_(results.c.kept.is_(None), results.c.kept.is_(False))
            statement = statement.where(is_kept if self.kept else is_not)
        if self.search is not None:
            statement = statement.where(_begins_with(self.search))
        if self.since is not None:
            statement = statement.where(results.c.inspected_at >= self.since)
        if self.until is not None:
            statement = statement.where(results.c.inspected_at < self.until)
        return self._on_feedback(statement)

    def _on_feedback(self, statement: "Select[Any]") -> "Select[Any]":
        if self.feedback == NOTHING_SAID:
            statement = statement.where(_nothing_said())
        elif self.feedback is not None:
            last = last_said()
            latest = select(last.c.result_id).where(last.c.kind == self.feedback)
            statement = statement.where(results.c.result_id.in_(latest))
        if self.defect is not None:
            last = last_said()
            latest = select(last.c.result_id).where(last.c.defect == self.defect)
            statement = statement.where(results.c.result_id.in_(latest))
        return statement


@dataclass(frozen=True, slots=True)
class Page:
    """Results in their order, and what asks for the next ones; None at the end."""

    results: list[Result]
    cursor: str | None


def ordering(order: Order) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return what sorts results by their moment of inspection."""
    if order == "oldest":
        return results.c.inspected_at.asc(), results.c.id.asc()
    return results.c.inspected_at.desc(), results.c.id.desc()


def cursor_of(result: Result, order: Order) -> str:
    """Name a result's position in an order of pages: microseconds and id."""
    place = f"{(result.inspected_at - _EPOCH) // timedelta(microseconds=1)}.{result.id}"
    return _OLDEST_MARK + place if order == "oldest" else place


def is_of_order(cursor: str, order: Order) -> bool:
    """Whether a cursor was given with a page of this order."""
    return cursor.startswith(_OLDEST_MARK) == (order == "oldest")


def behind(cursor: str, order: Order = "newest") -> ColumnElement[bool]:
    """Restrict to the rows behind a place; raises `ValueError` where it is none of this order."""
    if not is_of_order(cursor, order):
        raise ValueError(f"the cursor {cursor} is not of pages with the {order} first")
    moment, _, number = cursor.removeprefix(_OLDEST_MARK).partition(".")
    at = _EPOCH + timedelta(microseconds=int(moment))
    inspected_at, row = results.c.inspected_at, results.c.id
    # The first condition bounds the index, the second is exact.
    if order == "oldest":
        return and_(inspected_at >= at, or_(inspected_at > at, row > int(number)))
    return and_(inspected_at <= at, or_(inspected_at < at, row < int(number)))


def last_said(result_ids: Sequence[str] | None = None) -> Subquery:
    """What was said last of each result that something was said of: result_id, kind, defect.

    What was withdrawn is as if nobody had spoken.
    """
    latest = select(feedback.c.result_id, feedback.c.kind, feedback.c.defect)
    latest = latest.where(feedback.c.kind != WITHDRAWN, is_last_said())
    if result_ids is not None:
        latest = latest.where(feedback.c.result_id.in_(result_ids))
    return latest.subquery()


def is_last_said() -> ColumnElement[bool]:
    """Whether nobody spoke later of the same result.

    A list of the last numbers instead tempts SQLite to go through it for every result.
    """
    later = feedback.alias()
    said_later = select(later.c.id).where(
        later.c.result_id == feedback.c.result_id, later.c.id > feedback.c.id
    )
    return ~exists(said_later.correlate(feedback))


def passed(thresholds: Mapping[str, float]) -> ColumnElement[bool]:
    """Whether neither the answer nor the calibration's own threshold rejected a part."""
    conditions = [
        and_(results.c.calibration == digest, results.c.score <= threshold)
        for digest, threshold in thresholds.items()
    ]
    calibrated = results.c.calibrated_verdict
    by_score = and_(calibrated.is_(None), or_(false(), *conditions))
    return and_(results.c.verdict != "NG", or_(calibrated != "NG", by_score))


def _nothing_said() -> ColumnElement[bool]:
    """Whether nothing is said of a result: looked up row by row, in an index alone."""
    spoken = select(feedback.c.id).where(
        feedback.c.result_id == results.c.result_id,
        feedback.c.kind != WITHDRAWN,
        is_last_said(),
    )
    return ~exists(spoken.correlate(results))


def _begins_with(prefix: str) -> ColumnElement[bool]:
    """Whether a part's id or its lot begins so; no sign has a meaning of its own.

    No index serves this: `record.searching` says where to look.
    """
    return or_(
        *(func.substr(results.c[name], 1, len(prefix)) == prefix for name in ("part_id", "lot"))
    )
