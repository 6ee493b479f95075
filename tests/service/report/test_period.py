from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import PeriodInvalid, ZoneUnknown
from service.report import period
from service.report.period import period_of, zone_of

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)  # the day on which Berlin loses an hour
BERLIN = "Europe/Berlin"


def span(since: str, until: str = "now", zone: str = BERLIN) -> tuple[datetime, datetime]:
    read = period_of(since, until, zone, NOW)
    return read.since, read.until


def test_moments_dates_and_how_long_ago() -> None:
    assert span("8h") == (NOW - timedelta(hours=8), NOW)
    assert span("90min", "30min") == (NOW - timedelta(minutes=90), NOW - timedelta(minutes=30))
    assert span("2w", "1d") == (NOW - timedelta(weeks=2), NOW - timedelta(days=1))
    assert span("2026-03-01T06:00", "2026-03-01T14:00:30Z") == (
        datetime(2026, 3, 1, 5, tzinfo=UTC),
        datetime(2026, 3, 1, 14, 0, 30, tzinfo=UTC),
    )
    assert span("2026-03-01T06:00:00+09:00")[0] == datetime(2026, 2, 28, 21, tzinfo=UTC)


def test_a_date_twice_is_that_day_of_the_zone_however_long_it_was() -> None:
    since, until = span("2026-03-29", "2026-03-29")
    assert since == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert until - since == timedelta(hours=23)


@pytest.mark.parametrize(
    "since",
    ["", "yesterday", "8 hours", "-8h", "2026-13-01", "9999999h", "999999w", "٨h", "0001-01-01"],
)
def test_nonsense_is_refused_by_name(since: str) -> None:
    with pytest.raises(PeriodInvalid, match="since"):
        span(since)


@pytest.mark.parametrize(("since", "until"), [("1h", "8h"), ("now", "now"), ("2026-03-30", "now")])
def test_a_period_without_time_in_it_is_refused(since: str, until: str) -> None:
    with pytest.raises(PeriodInvalid, match="has no time in it"):
        span(since, until)


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "/etc/passwd", "\0"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ZoneUnknown, match="no time zone"):
        span("8h", zone=zone)


def test_the_machines_zone_is_taken_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(period, "_LOCALTIME", tmp_path / "nothing")
    monkeypatch.delenv("TZ", raising=False)
    assert zone_of(None).key == "UTC"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert zone_of(None).key == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    monkeypatch.setattr(period, "_LOCALTIME", Path("/usr/share/zoneinfo/Europe/Berlin"))
    assert zone_of(None).key == "Europe/Berlin"
