"""The tables of the store. Change them by a migration (`record/migrations`), never in place."""

from datetime import UTC, datetime
from typing import Any

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

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts INTEGER keys by itself


class Moment(TypeDecorator[datetime]):
    """A moment in UTC: with its zone in Python and in PostgreSQL, without one in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Bring a moment to UTC before it is stored; one without a zone is UTC, whatever the machine's is."""
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


results = Table(
    "results",
    metadata,
    Column("id", _Id, primary_key=True),  # in the order of arrival
    Column("result_id", String(32), nullable=False, unique=True),
    # The caller, the camera and their key as one text (`service.results.idempotency`), so that it
    # is unique among all.
    Column("idempotency_key", _wide(512, 128), unique=True),
    Column("fingerprint", String(64)),  # of the request, where it had a key
    Column("inspected_at", Moment, nullable=False),
    Column("triggered_at", Moment),
    Column("model", _wide(255, 128), nullable=False),  # a folder's name
    Column("version", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("calibration", String(64)),
    Column("kept", Boolean),
    Column("part_id", String(128)),
    Column("camera", String(128)),
    Column("lot", String(128)),
    Column("recipe", String(128)),
    Column("verdict", String(8), nullable=False),
    # The calibration's own, whatever threshold the request asked for; None in rows before it was
    # kept.
    Column("calibrated_verdict", String(8)),
    Column("is_anomalous", Boolean, nullable=False),
    Column("score", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("p_value", Float, nullable=False),
    Column("score_std", Float, nullable=False),
    Column("regions", JSON, nullable=False),
    Column("timings", JSON, nullable=False),
    Column("image_sha256", String(64), nullable=False),
    # Pages are cut in the order of inspection, by any filter and any span of time.
    Index("results_by_time", "inspected_at", "id"),
    Index("results_by_model", "model", "inspected_at", "id"),
    Index("results_by_camera", "camera", "inspected_at", "id"),
    Index("results_by_lot", "lot", "inspected_at", "id"),
    Index("results_by_part", "part_id", "inspected_at", "id"),
    Index("results_by_verdict", "verdict", "inspected_at", "id"),
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
    Index("feedback_by_result", "result_id", "id"),
    Index("feedback_by_kind", "kind", "id"),
)
