"""What a period's results say together, counted by the database: no row but the worst is read.

All questions are asked of one snapshot (`Store.snapshot`), so that the numbers agree with each
other while parts come in. Groups are limited in number by whoever asks. A percentile is the
smallest value that at least that share of the values do not exceed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import ColumnElement, RowMapping, Select, case, distinct, func, select

from record.filters import last_said
from record.result import FIELDS, Result
from record.store import Filter, Store
from record.tables import results

RANK_BINS = 10
_DEFECTS = ("confirmed_defect", "missed_defect")
_VERDICTS = ("OK", "WARN", "NG")
_Ask = Callable[["Select[Any]"], Sequence[RowMapping]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Parts by what they were answered."""

    parts: int = 0
    ok: int = 0
    warn: int = 0
    ng: int = 0

    def less(self, other: "Counts") -> "Counts":
        """Return the parts that are not among the other ones."""
        return Counts(
            self.parts - other.parts, self.ok - other.ok, self.warn - other.warn, self.ng - other.ng
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """All parts, when the first and the last were inspected, and how many cameras and lots."""

    counts: Counts
    first: datetime | None
    last: datetime | None
    cameras: int
    lots: int


@dataclass(frozen=True, slots=True)
class Group:
    """The parts of one camera or lot; `name` is None where they were sent without one."""

    name: str | None
    counts: Counts


@dataclass(frozen=True, slots=True)
class Stream:
    """The parts of one model from one camera: what a drift is seen in."""

    model: str
    camera: str | None


@dataclass(frozen=True, slots=True)
class Ranks:
    """How a stream's parts lie among its calibration's: parts by tenth of the p-value."""

    stream: Stream
    parts: int
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spoken:
    """How many parts of a verdict people spoke of last by a `kind` of feedback."""

    verdict: str
    kind: str
    parts: int


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a model computed for `parts` parts: median and 95th percentile, in seconds."""

    model: str
    parts: int
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Worst:
    """A result that was not OK, and what was said of it last."""

    result: Result
    kind: str | None
    defect: str | None


class Statistics:
    """Asks one snapshot of a store about the results that a filter fits."""

    def __init__(self, ask: _Ask, filter_: Filter) -> None:
        self._ask = ask
        self._filter = filter_
        self._last = last_said()
        self._discussed = results.join(self._last, self._last.c.result_id == results.c.result_id)

    def during(self, since: datetime, until: datetime) -> "Statistics":
        """Ask the same snapshot about a part of the period."""
        start, end = self._filter.since, self._filter.until
        part = replace(
            self._filter,
            since=since if start is None else max(start, since),
            until=until if end is None else min(end, until),
        )
        return Statistics(self._ask, part)

    def totals(self) -> Totals:
        """Count all parts, cameras and lots."""
        at, names = results.c.inspected_at, (results.c.camera, results.c.lot)
        span = func.min(at).label("first"), func.max(at).label("last")
        kinds = [func.count(distinct(column)).label(f"{column.name}s") for column in names]
        [row] = self._rows(select(*_COUNTS, *span, *kinds))
        return Totals(_counts(row), row["first"], row["last"], row["cameras"], row["lots"])

    def counts(self) -> Counts:
        """Count all parts."""
        return _counts(self._rows(select(*_COUNTS))[0])

    def groups(self, by: Literal["camera", "lot"], limit: int) -> list[Group]:
        """Count by camera or lot: those with the most parts."""
        column = results.c[by]
        grouped = select(column.label("name"), *_COUNTS).group_by(column)
        rows = self._rows(grouped.order_by(func.count().desc(), column).limit(limit))
        return [Group(row["name"], _counts(row)) for row in rows]

    def ranks(self, limit: int) -> list[Ranks]:
        """Count the tenths of p-values by model and camera: the streams with the most parts."""
        below = [
            func.sum(case((results.c.p_value < number / RANK_BINS, 1), else_=0)).label(f"b{number}")
            for number in range(1, RANK_BINS)
        ]
        grouped = select(*_STREAM, func.count().label("parts"), *below).group_by(*_STREAM)
        rows = self._rows(grouped.order_by(func.count().desc(), *_STREAM).limit(limit))
        return [_ranks(row) for row in rows]

    def median_score(self, stream: Stream) -> float | None:
        """Return the median score of a stream."""
        camera = results.c.camera
        same = camera.is_(None) if stream.camera is None else camera == stream.camera
        only = results.c.model == stream.model, same
        [row] = self._rows(select(func.count().label("parts")).where(*only))
        return self._percentile(results.c.score, 50, row["parts"], only)

    def durations(self, limit: int) -> list[Duration]:
        """Return how long the models computed: those with the most parts."""
        seconds, model = results.c.timings["inference"].as_float(), results.c.model
        timed = select(model, func.count().label("parts")).where(seconds.is_not(None))
        rows = self._rows(timed.group_by(model).order_by(func.count().desc(), model).limit(limit))
        durations = []
        for row in rows:
            only = model == row["model"], seconds.is_not(None)
            values = [self._percentile(seconds, p, row["parts"], only) or 0.0 for p in (50, 95)]
            durations.append(Duration(row["model"], row["parts"], *values))
        return durations

    def spoken(self) -> list[Spoken]:
        """Count the parts that people spoke of."""
        columns = results.c.verdict, self._last.c.kind
        counted = select(*columns, func.count().label("parts")).select_from(self._discussed)
        return [Spoken(**row) for row in self._rows(counted.group_by(*columns))]

    def defects(self, limit: int) -> list[tuple[str, int]]:
        """Count the defects by the names that people gave them: the most frequent names."""
        name = self._last.c.defect
        named = select(name.label("name"), func.count().label("parts"))
        rows = self._rows(
            self._named(named).group_by(name).order_by(func.count().desc(), name).limit(limit)
        )
        return [(row["name"], row["parts"]) for row in rows]

    def named_defects(self) -> int:
        """Count the defects that have a name."""
        [row] = self._rows(self._named(select(func.count().label("parts"))))
        return int(row["parts"])

    def worst(self, limit: int) -> list[Worst]:
        """Return kept results that were not OK, those farthest beyond their threshold first."""
        last, columns = self._last, [results.c[name] for name in ("id", *FIELDS)]
        beyond = results.c.score / func.nullif(results.c.threshold, 0)
        statement = (
            select(*columns, last.c.kind.label("said"), last.c.defect)
            .select_from(results.outerjoin(last, last.c.result_id == results.c.result_id))
            .where(results.c.kept.is_(True), results.c.verdict.in_(("NG", "WARN")))
            .order_by(case((results.c.verdict == "NG", 0), else_=1), beyond.desc(), results.c.id)
        )
        return [
            Worst(Result(**{c.name: row[c.name] for c in columns}), row["said"], row["defect"])
            for row in self._rows(statement.limit(limit))
        ]

    def _named(self, statement: "Select[Any]") -> "Select[Any]":
        name = self._last.c.defect
        is_named = name.is_not(None), func.trim(name) != ""
        return statement.select_from(self._discussed).where(
            self._last.c.kind.in_(_DEFECTS), *is_named
        )

    def _percentile(
        self,
        value: ColumnElement[Any],
        percent: int,
        parts: int,
        only: tuple[ColumnElement[bool], ...],
    ) -> float | None:
        # A third of a window function's time on SQLite, which would keep every row for it.
        place = max(0, -(-parts * percent // 100) - 1)
        ordered = select(value.label("value")).where(*only).order_by(value)
        rows = self._rows(ordered.offset(place).limit(1))
        return float(rows[0]["value"]) if rows else None

    def _rows(self, statement: "Select[Any]") -> Sequence[RowMapping]:
        return self._ask(self._filter.on(statement))


@contextmanager
def statistics_of(store: Store, filter_: Filter) -> Iterator[Statistics]:
    """Open a snapshot of a store for several questions; they raise `StoreError`."""
    with store.snapshot() as ask:
        yield Statistics(ask, filter_)


_STREAM = (results.c.model, results.c.camera)
_COUNTS = (
    func.count().label("parts"),
    *(
        func.coalesce(func.sum(case((results.c.verdict == verdict, 1), else_=0)), 0).label(
            verdict.lower()
        )
        for verdict in _VERDICTS
    ),
)


def _counts(row: RowMapping) -> Counts:
    return Counts(*(int(row[name]) for name in ("parts", "ok", "warn", "ng")))


def _ranks(row: RowMapping) -> Ranks:
    edges = [0, *(int(row[f"b{number}"]) for number in range(1, RANK_BINS)), int(row["parts"])]
    bins = tuple(high - low for low, high in pairwise(edges))
    return Ranks(Stream(row["model"], row["camera"]), int(row["parts"]), bins)
