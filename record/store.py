"""The results of inspections in a database: SQLite by default, PostgreSQL by URL."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from alembic.util import CommandError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError, StatementError

from record.camera_summary import CameraSummary, summaries
from record.filters import Filter, Order, Page, behind, cursor_of, last_said, ordering, passed
from record.migrate import migrate
from record.result import Defect, Feedback, Result
from record.searching import narrowed
from record.tables import feedback, results

__all__ = ["Filter", "Page", "RowRefused", "Store", "StoreError", "unusable"]

_BUSY_S = 10.0
_NEWEST = ordering("newest")
_FEEDBACK_FIELDS = [field.name for field in fields(Feedback) if field.name != "id"]
NO_THRESHOLDS: Mapping[str, float] = MappingProxyType({})
_IDS_AT_ONCE = 500  # in one question
_NAMED_LATELY = 1000  # newest feedback in which names of defects are looked for
_INSERTS: Mapping[str, Callable[..., Any]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


class StoreError(Exception):
    """The database cannot be used now; `code` is stable."""

    code = "store_unavailable"


class RowRefused(StoreError):
    """The database is there, and does not take these rows: trying again is no use."""

    code = "row_refused"


class Store:
    """Every method raises `StoreError` when the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Store":
        """Connect, and bring the tables to this version's form.

        `url` is SQLAlchemy's: `sqlite:///results.db`, `postgresql+psycopg://user@host/maskline`.
        """
        try:
            if problem := unusable(url):
                raise ArgumentError(problem)
            engine = create_engine(url, pool_pre_ping=True)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _as_a_service_wants_it)
            migrate(engine)
        except CommandError as error:
            raise StoreError(
                f"the tables of {_shown(url)} are of another version of Maskline, perhaps a "
                f"newer: {error}"
            ) from error
        except (ArgumentError, SQLAlchemyError, ImportError) as error:
            raise StoreError(f"the database {_shown(url)} cannot be opened: {error}") from error
        return cls(engine)

    def add(self, added: Sequence[Result]) -> int:
        """Add results; those that are there already are left alone.

        A result whose idempotency key another result has is stored without it: two processes may
        answer the same request at once, and what was answered is stored. Returns how many were new.
        Raises `RowRefused` where one is no result.
        """
        statement = _INSERTS[self._engine.dialect.name](results).on_conflict_do_nothing()
        try:
            with self._engine.begin() as connection:
                before = _last_id(connection)
                connection.execute(statement, [result.row() for result in added])
                if late := _absent(connection, added):
                    connection.execute(statement, [_unkeyed(result).row() for result in late])
                return _count_after(connection, before)
        except (DataError, IntegrityError, UnicodeError, OverflowError) as error:
            raise RowRefused(f"results are refused: {_first_line(error)}") from error
        except SQLAlchemyError as error:
            if type(error) is StatementError:  # a value that has no place in its column
                raise RowRefused(f"results are refused: {_first_line(error)}") from error
            raise StoreError(f"results cannot be stored: {_first_line(error)}") from error

    def page(
        self,
        filter_: Filter,
        *,
        cursor: str | None = None,
        limit: int = 100,
        order: Order = "newest",
    ) -> Page:
        """Return results that fit, by moment of inspection; a page's `cursor` asks for the next.

        Raises `ValueError` where the cursor is of a page in the other order.
        """
        page = self._ordered(filter_, limit + 1, order, cursor)
        more = len(page) > limit
        return Page(page[:limit], cursor_of(page[limit - 1], order) if more else None)

    def ids(self, filter_: Filter, limit: int, order: Order = "newest") -> list[str]:
        """Return the ids of results that fit, by moment of inspection."""
        columns = select(results.c.result_id, results.c.inspected_at, results.c.id)
        rows: list[RowMapping] = []
        for statement in self._statements(columns, filter_, order):
            rows += self._rows(statement.limit(limit))
        rows.sort(key=lambda row: (row["inspected_at"], row["id"]), reverse=order == "newest")
        return [row["result_id"] for row in rows[:limit]]

    def by_ids(self, result_ids: Sequence[str]) -> list[Result]:
        """Return results by their ids, in their order; those that are gone are left out."""
        by_id: dict[str, Result] = {}
        for start in range(0, len(result_ids), _IDS_AT_ONCE):
            chunk = results.c.result_id.in_(result_ids[start : start + _IDS_AT_ONCE])
            rows = self._results(select(results).where(chunk))
            by_id |= {result.result_id: result for result in rows}
        return [by_id[result_id] for result_id in result_ids if result_id in by_id]

    def defect_names(self, limit: int) -> list[str]:
        """Return the names that people gave defects lately, the most frequent first."""
        latest = select(feedback.c.defect).order_by(feedback.c.id.desc()).limit(_NAMED_LATELY)
        lately = latest.subquery()
        named = select(lately.c.defect).where(lately.c.defect.is_not(None))
        counted = named.group_by(lately.c.defect).order_by(func.count().desc(), lately.c.defect)
        return [row["defect"] for row in self._rows(counted.limit(limit))]

    def last_kinds(self, result_ids: Sequence[str]) -> dict[str, str]:
        """Return what was said last of results, by id; those that nobody spoke of are left out."""
        kinds: dict[str, str] = {}
        for start in range(0, len(result_ids), _IDS_AT_ONCE):
            last = last_said(result_ids[start : start + _IDS_AT_ONCE])
            rows = self._rows(select(last.c.result_id, last.c.kind))
            kinds |= {row["result_id"]: row["kind"] for row in rows}
        return kinds

    def cameras(self, counted_since: datetime, seen_since: datetime) -> list[CameraSummary]:
        """Say of each camera that sent parts since a moment what it sent, the latest first."""
        with _database_errors("cameras cannot be read"), self._engine.connect() as connection:
            return summaries(connection, counted_since, seen_since)

    def kept_normals(
        self, filter_: Filter, limit: int, thresholds: Mapping[str, float] = NO_THRESHOLDS
    ) -> list[Result]:
        """Return the newest kept results that count as normal.

        Those that passed and nobody called a missed defect, and those that somebody called good:
        without the false alarms, what is calibrated on would end where the threshold was. A part
        has passed where its calibration's own threshold let it, whatever the request asked for. Of
        rows that do not say, only those of the calibrations in `thresholds` (by digest) count.
        """
        kind = last_said()
        normal = or_(
            kind.c.kind.in_(("false_alarm", "confirmed_good")),
            and_(passed(thresholds), kind.c.kind.is_(None)),
        )
        joined = results.outerjoin(kind, kind.c.result_id == results.c.result_id)
        statement = select(results).select_from(joined)
        statement = filter_.on(statement.where(results.c.kept.is_(True), normal))
        return self._results(statement.order_by(*_NEWEST).limit(limit))

    def defects(self, model: str) -> list[Defect]:
        """Return all results that somebody called a defect, newest first.

        Also those of which nothing is kept: whoever judges them again must know that they are
        there.
        """
        last = last_said()
        defect = last.c.kind.in_(("confirmed_defect", "missed_defect"))
        # In two questions: in one, SQLite would rather look for feedback on every result.
        rows = self._rows(select(last.c.result_id, last.c.kind).where(defect))
        kinds = {row["result_id"]: row["kind"] for row in rows}
        of_model = [result for result in self.by_ids(list(kinds)) if result.model == model]
        of_model.sort(key=lambda result: (result.inspected_at, result.id), reverse=True)
        return [Defect(result, kinds[result.result_id]) for result in of_model]

    def kept_latest(self, model: str, limit: int, camera: str | None = None) -> list[Result]:
        """Return the newest kept results, of one camera or of all."""
        filter_ = Filter(model=model, camera=camera)
        statement = filter_.on(select(results).where(results.c.kept.is_(True)))
        return self._results(statement.order_by(*_NEWEST).limit(limit))

    def find(self, result_id: str) -> Result | None:
        """Return a result by its id."""
        statement = select(results).where(results.c.result_id == result_id)
        return next(iter(self._results(statement)), None)

    def repeated(self, idempotency_key: str) -> Result | None:
        """Return the result that was given under an idempotency key before."""
        statement = select(results).where(results.c.idempotency_key == idempotency_key)
        return next(iter(self._results(statement)), None)

    def add_feedback(self, entry: Feedback, *, after: int | None = None) -> Feedback | None:
        """Add what somebody said of a result; returns it with its number.

        `after` is the number of what was said of it last, 0 for nothing, as far as the speaker
        knows. None is returned, and nothing stored, where somebody else spoke since, or the result
        is gone.
        """
        result = results.c.result_id == entry.result_id
        values = [literal(getattr(entry, name), feedback.c[name].type) for name in _FEEDBACK_FIELDS]
        row = select(*values).where(exists().where(result))
        if after is not None:
            spoken = feedback.c.result_id == entry.result_id
            row = row.where(~exists().where(spoken, feedback.c.id > after))
        with _database_errors("feedback cannot be stored"), self._engine.begin() as connection:
            # PostgreSQL lets whoever speaks of one result wait here; SQLite has one writer anyway.
            connection.execute(select(results.c.id).where(result).with_for_update()).first()
            added = insert(feedback).from_select(_FEEDBACK_FIELDS, row).returning(feedback)
            stored = connection.execute(added).mappings().first()
            return None if stored is None else Feedback(**stored)

    def last_feedback(self) -> int:
        """Return the number of what was said last of any result; 0 before the first."""
        with _database_errors("feedback cannot be read"), self._engine.connect() as connection:
            return int(connection.execute(select(func.max(feedback.c.id))).scalar() or 0)

    def nothing_kept(self, result_id: str) -> None:
        """Note that nothing is kept of a result after all."""
        statement = update(results).where(results.c.result_id == result_id).values(kept=False)
        with _database_errors("a result cannot be changed"), self._engine.begin() as connection:
            connection.execute(statement)

    def feedback_on(self, result_id: str) -> tuple[Feedback, ...]:
        """Return what was said of a result, the last first."""
        statement = select(feedback).where(feedback.c.result_id == result_id)
        rows = self._rows(statement.order_by(feedback.c.id.desc()))
        return tuple(Feedback(**row) for row in rows)

    def forget(self, before: datetime, limit: int = 5000) -> int:
        """Delete the oldest results before a moment, at most so many; those with feedback stay."""
        spoken_of = select(feedback.c.result_id)
        old = select(results.c.id).where(
            results.c.inspected_at < before, results.c.result_id.not_in(spoken_of)
        )
        statement = delete(results).where(
            results.c.id.in_(old.order_by(results.c.inspected_at).limit(limit))
        )
        with _database_errors("results cannot be deleted"), self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    @contextmanager
    def snapshot(self) -> Iterator[Callable[["Select[Any]"], Sequence[RowMapping]]]:
        """Open what answers several queries as of one moment, while others write."""
        with _database_errors("results cannot be read"), self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # its driver begins none for what only reads
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield lambda statement: connection.execute(statement).mappings().all()

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """Open what changes rows, all of them or none."""
        with _database_errors("the store cannot be changed"), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _ordered(
        self, filter_: Filter, limit: int, order: Order, cursor: str | None
    ) -> list[Result]:
        page: list[Result] = []
        for statement in self._statements(select(results), filter_, order):
            if cursor is not None:
                statement = statement.where(behind(cursor, order))
            page += self._results(statement.limit(limit))
        page.sort(key=lambda row: (row.inspected_at, row.id), reverse=order == "newest")
        return page[:limit]

    def _statements(
        self, columns: "Select[Any]", filter_: Filter, order: Order
    ) -> list["Select[Any]"]:
        """One question for each verdict that is wanted, so that an index has all in their order."""
        extra = self._narrowed(filter_.search)
        return [
            single.on(columns).where(*extra).order_by(*ordering(order))
            for single in filter_.by_verdict()
        ]

    def _narrowed(self, search: str | None) -> list[ColumnElement[bool]]:
        if search is None:
            return []
        with _database_errors("results cannot be read"), self._engine.connect() as connection:
            return [narrowed(connection, search)]

    def _results(self, statement: "Select[Any]") -> list[Result]:
        return [Result(**row) for row in self._rows(statement)]

    def _rows(self, statement: "Select[Any]") -> Sequence[RowMapping]:
        with _database_errors("results cannot be read"), self._engine.connect() as connection:
            return connection.execute(statement).mappings().all()


@contextmanager
def _database_errors(failed: str) -> Iterator[None]:
    """Turn what the database raises into `StoreError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"{failed}: {_first_line(error)}") from error


def unusable(url: str) -> str | None:
    """Say what is wrong with an address, if anything is; the database itself is not asked."""
    try:
        kind = make_url(url).get_backend_name()
    except ArgumentError:
        return "no address of a database; want for instance postgresql+psycopg://user@host/maskline"
    return None if kind in _INSERTS else f"{kind!r} is not supported; use sqlite or postgresql"


def _unkeyed(result: Result) -> Result:
    return replace(result, idempotency_key=None, fingerprint=None)


def _absent(connection: Connection, added: Sequence[Result]) -> list[Result]:
    """Return the results that were not stored because another one has their idempotency key."""
    keyed = {result.result_id: result for result in added if result.idempotency_key is not None}
    if not keyed:
        return []
    present = select(results.c.result_id).where(results.c.result_id.in_(keyed))
    stored = set(connection.execute(present).scalars())
    return [result for result_id, result in keyed.items() if result_id not in stored]


def _last_id(connection: Connection) -> int:
    last = connection.execute(select(results.c.id).order_by(results.c.id.desc()).limit(1))
    return last.scalar() or 0


def _count_after(connection: Connection, last: int) -> int:
    statement = select(func.count()).select_from(results).where(results.c.id > last)
    return int(connection.execute(statement).scalar() or 0)


def _as_a_service_wants_it(connection: Any, record: Any) -> None:
    """Readers never wait for the writer, and a commit survives the process (not a power cut)."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA busy_timeout = {round(1000 * _BUSY_S)}")
    cursor.close()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _shown(url: str) -> str:
    """The address without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(not an address)"
