"""What each camera sent of late, read from an index of cameras: no table is read whole."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from sqlalchemy import ColumnElement, Connection, func, select

from record.result import Result
from record.tables import results

_MOST_CAMERAS = 500  # by name; a client that invents names makes nobody wait
_TAKTS = 20  # parts between whose moments the takt is taken


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """A camera (None: parts without one), its last result, and its parts of a while by verdict.

    `takt_s` is the median of the seconds between its last parts; None where there is one only.
    """

    camera: str | None
    last: Result
    verdicts: dict[str, int]
    takt_s: float | None


def summaries(
    connection: Connection, counted_since: datetime, seen_since: datetime
) -> list[CameraSummary]:
    """Say of each camera that was seen since a moment what it sent, the latest first."""
    cameras = []
    rejected = _rejected(connection, counted_since)
    for camera in (None, *_names(connection)):
        moments = _moments(connection, camera)
        if moments and moments[0] >= seen_since:
            total = _count(connection, camera, counted_since)
            doubtful = {verdict: rejected[camera, verdict] for verdict in ("WARN", "NG")}
            verdicts = {"OK": total - sum(doubtful.values()), **doubtful}
            last = _last(connection, camera)
            cameras.append(CameraSummary(camera, last, verdicts, _takt(moments)))
    return sorted(cameras, key=lambda summary: summary.last.inspected_at, reverse=True)


def _names(connection: Connection) -> list[str]:
    """Jump from name to name in the index of cameras."""
    first = select(func.min(results.c.camera).label("camera"))
    names = first.cte("names", recursive=True)
    following = select(func.min(results.c.camera)).where(results.c.camera > names.c.camera)
    step = select(following.scalar_subquery()).where(names.c.camera.is_not(None))
    names = names.union_all(step)
    statement = select(names.c.camera).where(names.c.camera.is_not(None)).limit(_MOST_CAMERAS)
    return list(connection.execute(statement).scalars())


def _of(camera: str | None) -> ColumnElement[bool]:
    return results.c.camera.is_(None) if camera is None else results.c.camera == camera


def _moments(connection: Connection, camera: str | None) -> list[datetime]:
    statement = select(results.c.inspected_at).where(_of(camera))
    statement = statement.order_by(results.c.inspected_at.desc(), results.c.id.desc())
    return list(connection.execute(statement.limit(_TAKTS)).scalars())


def _takt(moments: list[datetime]) -> float | None:
    seconds = [(later - earlier).total_seconds() for later, earlier in pairwise(moments)]
    return median(seconds) if seconds else None


def _last(connection: Connection, camera: str | None) -> Result:
    statement = select(results).where(_of(camera))
    statement = statement.order_by(results.c.inspected_at.desc(), results.c.id.desc()).limit(1)
    return Result(**connection.execute(statement).mappings().one())


def _count(connection: Connection, camera: str | None, since: datetime) -> int:
    """Count parts by the index alone."""
    statement = select(func.count()).where(_of(camera), results.c.inspected_at >= since)
    return int(connection.execute(statement).scalar() or 0)


def _rejected(connection: Connection, since: datetime) -> Counter[tuple[str | None, str]]:
    """Count what was not OK: few parts, which the index of verdicts has together."""
    counts: Counter[tuple[str | None, str]] = Counter()
    for verdict in ("WARN", "NG"):
        statement = select(results.c.camera, func.count())
        statement = statement.where(
            results.c.verdict == verdict, results.c.inspected_at >= since
        ).group_by(results.c.camera)
        for camera, number in connection.execute(statement):
            counts[camera, verdict] = number
    return counts
