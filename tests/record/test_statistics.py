from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from record.reading import open_to_read
from record.result import Feedback
from record.statistics import Counts, Duration, Group, Spoken, Stream, statistics_of
from record.store import Filter, Store, StoreError
from tests.record.test_store import NOON, result

EVERY = Filter(since=NOON, until=NOON + timedelta(hours=1))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def said(store: Store, number: int, kind: str, defect: str | None = None) -> None:
    entry = Feedback(result_id=f"{number:032x}", created_at=NOON, kind=kind, defect=defect)
    assert store.add_feedback(entry) is not None


def test_parts_are_counted_by_verdict_camera_and_lot(store: Store) -> None:
    lots: list[dict[str, Any]] = [{"lot": "A"}] * 4 + [{"lot": "B"}] * 2 + [{}]
    store.add([result(n, **lot) for n, lot in enumerate(lots)])
    store.add([result(50, verdict="WARN", camera=None), result(9000, camera="late")])
    with statistics_of(store, EVERY) as statistics:
        totals = statistics.totals()
        assert totals.counts == Counts(parts=8, ok=4, warn=1, ng=3)
        assert (totals.first, totals.last) == (NOON, NOON + timedelta(seconds=50))
        assert (totals.cameras, totals.lots) == (2, 2)
        assert statistics.groups("camera", 2) == [
            Group("right", Counts(4, ok=2, warn=0, ng=2)),
            Group("left", Counts(3, ok=2, warn=0, ng=1)),
        ]
        names = {group.name: group.counts.parts for group in statistics.groups("lot", 9)}
        assert names == {"A": 4, "B": 2, None: 2}
        part = statistics.during(NOON - timedelta(days=1), NOON + timedelta(seconds=3))
        assert part.counts() == Counts(3, ok=2, warn=0, ng=1)


def test_nothing_is_counted_as_nothing(store: Store) -> None:
    with statistics_of(store, EVERY) as statistics:
        assert statistics.totals().counts == Counts()
        assert statistics.totals().first is None
        assert statistics.median_score(Stream("flange", None)) is None
        assert statistics.ranks(5) == []
        assert statistics.durations(5) == []
        assert statistics.worst(5) == []


def test_percentiles_are_values_that_were_there(store: Store) -> None:
    store.add([result(n, timings={"inference": n / 1000}, camera="c") for n in range(1, 21)])
    store.add([result(30, timings={"decode": 1.0}, camera="c")])
    with statistics_of(store, EVERY) as statistics:
        [duration] = statistics.durations(5)
        assert duration == Duration("flange", 20, median_s=0.010, p95_s=0.019)
        assert statistics.median_score(Stream("flange", "c")) == pytest.approx(1.1)


def test_ranks_are_counted_by_tenth_of_the_p_value(store: Store) -> None:
    values = [0.0, 0.05, 0.1, 0.55, 0.999, 1.0]
    store.add([result(n, p_value=p, camera="c") for n, p in enumerate(values)])
    with statistics_of(store, EVERY) as statistics:
        [ranks] = statistics.ranks(5)
    assert ranks.stream == Stream("flange", "c")
    assert ranks.bins == (2, 1, 0, 0, 0, 1, 0, 0, 0, 2)


def test_what_was_said_last_of_a_part_counts(store: Store) -> None:
    store.add([result(n) for n in range(8)])
    said(store, 0, "confirmed_defect", "scratch")
    said(store, 0, "false_alarm")
    said(store, 3, "confirmed_defect", "scratch")
    said(store, 6, "confirmed_defect", " ")
    said(store, 1, "missed_defect", "pore")
    said(store, 2, "missed_defect", "scratch")
    said(store, 4, "confirmed_good", "scratch")
    with statistics_of(store, EVERY) as statistics:
        assert {(s.verdict, s.kind): s.parts for s in statistics.spoken()} == {
            ("NG", "false_alarm"): 1,
            ("NG", "confirmed_defect"): 2,
            ("OK", "missed_defect"): 2,
            ("OK", "confirmed_good"): 1,
        }
        assert statistics.defects(9) == [("scratch", 2), ("pore", 1)]
        assert statistics.defects(1) == [("scratch", 2)]
        assert statistics.named_defects() == 3
        late = statistics.during(NOON + timedelta(seconds=6), NOON + timedelta(hours=1))
        assert late.spoken() == [Spoken("NG", "confirmed_defect", 1)]


def test_the_worst_are_kept_and_lie_farthest_beyond_their_threshold(store: Store) -> None:
    store.add(
        [
            result(3, score=5.0, threshold=1.0, kept=True),
            result(6, score=9.0, threshold=3.0, kept=True),
            result(9, score=99.0, kept=False),
            result(1, score=80.0, verdict="WARN", kept=True),
            result(2, score=80.0, kept=True),
        ]
    )
    said(store, 6, "false_alarm")
    with statistics_of(store, EVERY) as statistics:
        worst = statistics.worst(9)
        assert len(statistics.worst(1)) == 1
    assert [(int(w.result.result_id, 16), w.kind) for w in worst] == [
        (3, None),
        (6, "false_alarm"),
        (1, None),
    ]


def test_a_snapshot_does_not_see_what_comes_later(store: Store, url: str) -> None:
    store.add([result(1)])
    writer = Store.open(url)
    with statistics_of(store, EVERY) as statistics:
        assert statistics.counts().parts == 1
        writer.add([result(2)])
        assert statistics.counts().parts == 1
    with statistics_of(store, EVERY) as statistics:
        assert statistics.counts().parts == 2
    writer.close()


def test_a_reader_changes_nothing_and_refuses_tables_of_another_version(url: str) -> None:
    with pytest.raises(StoreError, match="start this version's service once"):
        open_to_read(url)
    writer = Store.open(url)
    writer.add([result(1)])
    reader = open_to_read(url)
    with statistics_of(reader, EVERY) as statistics:
        assert statistics.counts().parts == 1
    if url.startswith("sqlite"):
        with pytest.raises(StoreError, match="readonly"):
            reader.add([result(2)])
    reader.close()
    with writer._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    writer.close()
    with pytest.raises(StoreError, match="another version"):
        open_to_read(url)


def test_an_address_that_cannot_be_read_shows_no_password() -> None:
    with pytest.raises(StoreError, match=r"mysql://\*\*\*@h/d") as caught:
        open_to_read("mysql://u:secret@h/d")
    assert "secret" not in str(caught.value)
