"""Which period a report is of: moments, dates and `8h`, in a zone, to two moments in UTC."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from service.errors import PeriodInvalid, ZoneUnknown

_AGO = re.compile(r"([0-9]{1,6}) ?(min|h|d|w)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WANT = (
    "want a moment (2026-03-01T06:00), a date, 'now', or how long ago it was (90min, 8h, 1d, 2w)"
)
_LOCALTIME = Path("/etc/localtime")
_MARGIN = timedelta(days=2)  # at both ends of the calendar: every zone can show what lies between


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to before `until`, both in UTC, and the zone to show them in."""

    since: datetime
    until: datetime
    zone: ZoneInfo


def period_of(since: str, until: str, zone: str | None, now: datetime) -> Period:
    """Read a period. Raises `PeriodInvalid` or `ZoneUnknown`.

    A date begins its day as `since`, and ends it as `until`: the same twice is that day.
    """
    clock = zone_of(zone)
    start = _moment("since", since, clock, now=now, days=0)
    end = _moment("until", until, clock, now=now, days=1)
    if start >= end:
        raise PeriodInvalid(
            f"a report from {start.astimezone(clock):%Y-%m-%d %H:%M} until "
            f"{end.astimezone(clock):%Y-%m-%d %H:%M} has no time in it; 'since' comes before "
            "'until'"
        )
    return Period(start, end, clock)


def zone_of(name: str | None) -> ZoneInfo:
    """Return a zone by its name, without one this machine's. Raises `ZoneUnknown`."""
    if name is None:
        return _machine_zone()
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ZoneUnknown(
            f"there is no time zone {name[:80]!r}; want one like Europe/Berlin"
        ) from (error)


def _machine_zone() -> ZoneInfo:
    """The zone that the machine is set to; UTC where it does not say, as in most containers."""
    linked = str(_LOCALTIME.resolve()).partition("zoneinfo/")[2]
    for name in (os.environ.get("TZ", "").removeprefix(":"), linked):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            continue
    return ZoneInfo("UTC")


def _moment(name: str, text: str, zone: ZoneInfo, *, now: datetime, days: int) -> datetime:
    text = text.strip()
    try:
        moment = _read(text, zone, now=now, days=days)
    except (ValueError, OverflowError) as error:
        raise PeriodInvalid(f"{name} {text[:80]!r} is no moment; {_WANT}") from error
    if not datetime.min + _MARGIN <= moment.replace(tzinfo=None) <= datetime.max - _MARGIN:
        raise PeriodInvalid(f"{name} {text[:80]!r} lies outside the years 1 to 9999")
    return moment


def _read(text: str, zone: ZoneInfo, *, now: datetime, days: int) -> datetime:
    if text == "now":
        return now.astimezone(UTC)
    if ago := _AGO.fullmatch(text):
        return now.astimezone(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if _DATE.fullmatch(text):
        day = date.fromisoformat(text) + timedelta(days=days)
        return datetime.combine(day, time(), zone).astimezone(UTC)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
