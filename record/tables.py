"""The tables of the store. Change them by a migration (`record/migrations`), never in place."""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)
from sqlalchemy.types import TypeDecorator

from record.result import Result

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts INTEGER keys by itself


class Moment(TypeDecorator[datetime]):
    """A moment in UTC: with its zone in Python and in PostgreSQL, without one in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a moment to UTC for storage; one without a zone is UTC on any machine."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give a stored moment its zone."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


metadata = MetaData()


def _wide(length: int, before: int) -> String:
    """A text that grew by a migration: SQLite never looked at the length, and is left as it was."""
    return String(before).with_variant(String(length), "postgresql")


def _searched(length: int) -> String:
    """A text that is searched by its beginning: ordered by its signs alone, as SQLite does it."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


_TEXTS = {  # lengths; a name of a model is a folder's
    "result_id": String(32),
    "idempotency_key": _wide(512, 128),
    "fingerprint": String(64),
    "model": _wide(255, 128),
    "version": String(64),
    "digest": String(64),
    "calibration": String(64),
    "part_id": _searched(128),
    "camera": String(128),
    "lot": _searched(128),
    "program": String(128),
    "verdict": String(8),
    "calibrated_verdict": String(8),
    "image_sha256": String(64),
}
_TYPES = {datetime: Moment, bool: Boolean, float: Float}
_UNIQUE = ("result_id", "idempotency_key")


def _columns() -> Iterator[Column[Any]]:
    """One column for each field of `Result`; whatever may be None may be NULL."""
    for name, hint in get_type_hints(Result).items():
        if name == "id":
            yield Column("id", _Id, primary_key=True)  # in the order of arrival
            continue
        alternatives = set(get_args(hint)) if isinstance(hint, UnionType) else {hint}
        [kind] = alternatives - {NoneType}
        sql_type = _TEXTS[name] if kind is str else _TYPES.get(kind, JSON)
        is_optional = NoneType in alternatives
        yield Column(name, sql_type, nullable=is_optional, unique=name in _UNIQUE or None)


results = Table(
    "results",
    metadata,
    *_columns(),
    # Pages are cut in the order of inspection, by any filter and any span of time.
    Index("results_by_time", "inspected_at", "id"),
    Index("results_by_model", "model", "inspected_at", "id"),
    Index("results_by_camera", "camera", "inspected_at", "id"),
    Index("results_by_lot", "lot", "inspected_at", "id"),
    Index("results_by_part", "part_id", "inspected_at", "id"),
    Index("results_by_verdict", "verdict", "inspected_at", "id"),
)
# Few results are kept, and pictures of them are all that a person can look at.
Index(
    "results_kept",
    results.c.verdict,
    results.c.inspected_at,
    results.c.id,
    sqlite_where=results.c.kept.is_(True),
    postgresql_where=results.c.kept.is_(True),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", _Id, primary_key=True),  # the last one of a result counts
    Column("result_id", String(32), ForeignKey("results.result_id"), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("author", String(128)),
    Column("kind", String(16), nullable=False),
    Column("defect", String(128)),
    Column("comment", String(1000)),
    Column("regions", JSON(none_as_null=True)),
    Index("feedback_by_result", "result_id", "id", "kind"),
    Index("feedback_by_kind", "kind", "id"),
)

kind_rules = Table(
    "kind_rules",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("kind", String(128), primary_key=True),
    Column("rule", String(8), nullable=False),
    Column("same_as", String(128)),
    Column("author", String(128)),
    Column("changed_at", Moment, nullable=False),
)
