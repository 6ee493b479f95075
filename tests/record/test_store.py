import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text

from record.result import Feedback, Result
from record.store import Filter, Store, StoreError
from record.tables import metadata, results

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(number: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "result_id": f"{number:032x}",
        "idempotency_key": None,
        "inspected_at": NOON + timedelta(seconds=number),
        "triggered_at": None,
        "model": "flange",
        "version": "v1",
        "digest": "0" * 64,
        "part_id": f"P{number}",
        "camera": "left" if number % 2 else "right",
        "lot": None,
        "program": None,
        "verdict": "NG" if number % 3 == 0 else "OK",
        "is_anomalous": number % 3 == 0,
        "score": 0.1 * number,
        "threshold": 1.0,
        "p_value": 0.5,
        "score_std": 0.01,
        "regions": [{"bbox": [1, 2, 3, 4]}],
        "timings": {"decode": 0.001},
        "image_sha256": "a" * 64,
    }
    return usual | changes


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def result(number: int, **changes: Any) -> Result:
    return Result(**row(number, **changes))


def numbers(results: list[Result]) -> list[int]:
    return [int(one.result_id, 16) for one in results]


def test_what_is_stored_comes_back_whole(store: Store) -> None:
    assert store.add([result(1)]) == 1
    found = store.find(f"{1:032x}")
    assert found is not None
    assert replace(found, id=None) == result(1)
    assert store.find("none") is None


def test_a_result_is_stored_once_however_often_it_comes(store: Store) -> None:
    assert store.add([result(1), result(2)]) == 2
    assert store.add([result(2), result(3), result(3)]) == 1
    assert store.add([result(4, idempotency_key="K")]) == 1
    assert store.add([result(4, idempotency_key="K")]) == 0
    assert numbers(store.page(Filter()).results) == [4, 3, 2, 1]


def test_of_two_results_with_one_key_both_are_stored_and_the_first_is_repeated(
    store: Store,
) -> None:
    keyed = {"idempotency_key": "K", "fingerprint": "f" * 64}
    assert store.add([result(1), result(2, **keyed), result(3, **keyed), result(4)]) == 4
    assert store.add([result(5, **keyed), result(6, idempotency_key="L")]) == 2
    assert store.add([result(5, **keyed)]) == 0
    first = store.repeated("K")
    assert first is not None
    assert (first.part_id, first.fingerprint) == ("P2", "f" * 64)
    assert numbers(store.page(Filter()).results) == [6, 5, 4, 3, 2, 1]
    late = store.find(f"{5:032x}")
    assert late is not None
    assert (late.idempotency_key, late.fingerprint) == (None, None)


def test_results_of_an_older_version_may_lack_what_was_added_since(store: Store) -> None:
    old = {name: value for name, value in row(1).items() if name != "lot"}
    assert store.add([Result(**old), result(2, lot="L", fingerprint="f" * 64)]) == 2
    first = store.find(f"{1:032x}")
    assert first is not None
    assert first.lot is None
    found = store.find(f"{2:032x}")
    assert found is not None
    assert (found.lot, found.fingerprint) == ("L", "f" * 64)


def test_pages_are_cut_by_a_cursor_and_miss_nothing_that_comes_meanwhile(store: Store) -> None:
    store.add([result(n) for n in range(10)])
    first = store.page(Filter(), limit=4)
    store.add([result(n) for n in range(10, 13)])
    second = store.page(Filter(), cursor=first.cursor, limit=4)
    third = store.page(Filter(), cursor=second.cursor, limit=4)
    assert numbers(first.results + second.results + third.results) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert third.cursor is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(verdict="NG"), [9, 6, 3, 0]),
        (Filter(verdict="NG", camera="left"), [9, 3]),
        (Filter(part_id="P7"), [7]),
        (Filter(since=NOON + timedelta(seconds=7), until=NOON + timedelta(seconds=9)), [8, 7]),
        (Filter(model="other"), []),
        (Filter(lot="L"), []),
    ],
)
def test_results_are_filtered(store: Store, wanted: Filter, found: list[int]) -> None:
    store.add([result(n) for n in range(10)])
    assert numbers(store.page(wanted).results) == found


def test_moments_keep_their_meaning_whatever_zone_they_came_in(store: Store) -> None:
    from datetime import timezone

    berlin = timezone(timedelta(hours=2))
    store.add([result(1, inspected_at=NOON.astimezone(berlin))])
    assert store.page(Filter(since=NOON, until=NOON + timedelta(seconds=1))).results
    found = store.find(f"{1:032x}")
    assert found is not None
    assert found.inspected_at == NOON
    assert found.inspected_at.tzinfo == UTC


def test_migrations_make_the_tables_that_the_code_means(store: Store) -> None:
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_a_store_is_opened_again_with_what_it_has(url: str) -> None:
    first = Store.open(url)
    first.add([result(1)])
    first.close()
    second = Store.open(url)
    assert numbers(second.page(Filter()).results) == [1]
    second.close()


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////nowhere/at/all/results.db",
        "postgresql+psycopg://me:secret@127.0.0.1:1/none",
        "no address",
        "oracle+none://x",
    ],
)
def test_a_database_that_cannot_be_opened_is_a_clear_error(address: str) -> None:
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store.open(address)
    assert "secret" not in str(caught.value).partition(":")[0]


def test_several_threads_may_open_a_new_store_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store.open(url), range(4)))
    for number, store in enumerate(stores):
        assert store.add([result(number)]) == 1
        store.close()


def test_normals_to_calibrate_on_are_what_passed_and_what_people_called_good(store: Store) -> None:
    added = [result(n, kept=n != 8) for n in range(1, 13)]  # NG are 3, 6, 9, 12
    store.add([replace(one, calibrated_verdict=one.verdict) for one in added])

    def say(number: int, kind: str) -> None:
        store.add_feedback(spoken(number, kind))

    say(3, "false_alarm")
    say(6, "confirmed_defect")
    say(9, "false_alarm")
    say(9, "confirmed_defect")  # the last counts
    say(1, "missed_defect")
    say(2, "confirmed_good")
    assert numbers(store.kept_normals(Filter(), 100)) == [11, 10, 7, 5, 4, 3, 2]
    assert numbers(store.kept_normals(Filter(camera="left"), 100)) == [11, 7, 5, 3]
    assert numbers(store.kept_normals(Filter(), 2)) == [11, 10]
    defects = {int(one.result.result_id, 16): one.kind for one in store.defects("flange")}
    assert defects == {9: "confirmed_defect", 6: "confirmed_defect", 1: "missed_defect"}
    assert store.defects("other") == []
    assert numbers(store.kept_latest("flange", 3)) == [12, 11, 10]
    assert 8 not in numbers(store.kept_latest("flange", 100))
    left = numbers(store.kept_latest("flange", 100, "left"))
    assert left
    assert all(number % 2 for number in left)


def test_old_results_are_forgotten_but_those_that_were_spoken_of(store: Store) -> None:
    store.add([result(n) for n in range(1, 11)])
    store.add_feedback(spoken(2, "missed_defect"))
    before = NOON + timedelta(seconds=7)
    assert store.forget(before, limit=3) == 3
    assert store.forget(before) == 2
    assert store.forget(before) == 0
    assert numbers(store.page(Filter()).results) == [10, 9, 8, 7, 2]


def test_pages_follow_the_time_of_inspection_also_where_rows_came_late(store: Store) -> None:
    store.add([result(n) for n in (5, 6, 7, 8)])
    store.add([result(n) for n in (1, 2, 3, 4)])  # out of the journal, after an outage
    store.add([result(9, inspected_at=NOON + timedelta(seconds=8))])  # the same moment as another
    seen, cursor = [], None
    for _ in range(5):
        page = store.page(Filter(), cursor=cursor, limit=2)
        seen += numbers(page.results)
        cursor = page.cursor
    assert cursor is None
    assert seen == [9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_only_what_the_calibration_itself_passed_is_normal(store: Store) -> None:
    store.add(
        [
            result(
                1, kept=True, verdict="OK", calibrated_verdict="NG"
            ),  # the request asked for more
            result(2, kept=True, verdict="NG", calibrated_verdict="OK"),  # for less
            result(4, kept=True, verdict="WARN", calibrated_verdict="WARN"),
            # Rows of a version that did not say: their score is held against their calibration's
            # threshold.
            result(5, kept=True, verdict="OK", calibration="c" * 64, score=1.9),
            result(7, kept=True, verdict="OK", calibration="c" * 64, score=2.1),
            result(8, kept=True, verdict="OK", calibration="d" * 64, score=0.1),
        ]
    )
    assert numbers(store.kept_normals(Filter(), 9)) == [4]
    assert numbers(store.kept_normals(Filter(), 9, {"c" * 64: 2.0})) == [5, 4]


def test_defects_are_there_also_where_nothing_is_kept_of_them(store: Store) -> None:
    store.add([result(n, kept=n == 1) for n in range(1, 4)])
    for number in (1, 2, 3):
        assert store.add_feedback(spoken(number, "confirmed_defect")) is not None
    assert [one.result.kept for one in store.defects("flange")] == [False, False, True]
    store.nothing_kept(f"{1:032x}")
    assert not any(one.result.kept for one in store.defects("flange"))


def spoken(number: int, kind: str, **changes: Any) -> Feedback:
    said = Feedback(result_id=f"{number:032x}", created_at=NOON, author="q", kind=kind)
    return replace(said, **changes)


def test_feedback_is_stored_only_on_what_the_speaker_knows(store: Store) -> None:
    store.add([result(1), result(2)])
    assert store.last_feedback() == 0
    first = store.add_feedback(spoken(1, "confirmed_defect"), after=0)
    assert first is not None
    assert store.last_feedback() == first.id
    assert store.add_feedback(spoken(1, "false_alarm"), after=0) is None
    other = store.add_feedback(spoken(2, "false_alarm"), after=0)
    assert other is not None
    assert store.add_feedback(spoken(1, "false_alarm"), after=first.id) is not None
    assert store.add_feedback(spoken(9, "false_alarm"), after=0) is None  # there is no such result
    assert [one.kind for one in store.feedback_on(f"{1:032x}")] == [
        "false_alarm",
        "confirmed_defect",
    ]


def test_of_many_who_speak_at_once_one_is_heard(store: Store) -> None:
    store.add([result(1)])
    with ThreadPoolExecutor(8) as pool:
        said = list(
            pool.map(
                lambda _: store.add_feedback(spoken(1, "confirmed_defect"), after=0), range(16)
            )
        )
    assert sum(one is not None for one in said) == 1
    assert len(store.feedback_on(f"{1:032x}")) == 1


def test_a_moment_without_a_zone_is_utc_wherever_the_machine_stands(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        store.add([result(1, inspected_at=NOON.replace(tzinfo=None))])
        found = store.find(f"{1:032x}")
        assert found is not None
        assert found.inspected_at == NOON
        hour = timedelta(hours=1)
        assert not store.page(Filter(since=(NOON + hour).replace(tzinfo=None))).results
        assert store.page(Filter(since=(NOON - hour).replace(tzinfo=None))).results
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_store_of_the_version_before_is_brought_forward_whole_or_not_at_all(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("record.migrate._HEAD", "0004")
        old = Store.open(url)
        with old._engine.begin() as connection:
            keyed = row(1, idempotency_key="K").items()
            before = {k: v for k, v in keyed if k not in ("fingerprint", "program")}
            connection.execute(insert(results), before)
        old.close()
    with monkeypatch.context() as patched:  # killed in the middle of it
        patched.setattr("alembic.op.alter_column", broken)
        patched.setattr(
            "alembic.op.add_column", lambda table, column, real=op.add_column: half(real, column)
        )
        with pytest.raises(RuntimeError, match="killed"):
            Store.open(url)
    store = Store.open(url)
    assert numbers(store.page(Filter()).results) == [1]
    with store._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.close()


def test_tables_of_a_newer_version_are_left_alone_and_said_to_be_so(url: str) -> None:
    store = Store.open(url)
    store.add([result(1)])
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(StoreError, match="another version of Maskline"):
        Store.open(url)


def half(real: Any, column: Any) -> None:
    """Add the first column only."""
    if column.name != "fingerprint":
        broken()
    real("results", column)


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("killed")


def test_pages_go_both_ways_and_a_cursor_fits_one_of_them(store: Store) -> None:
    store.add([result(n) for n in range(6)])
    store.add([result(6, inspected_at=NOON + timedelta(seconds=5))])  # the same moment as another
    seen, cursor = [], None
    for _ in range(4):
        page = store.page(Filter(), cursor=cursor, limit=2, order="oldest")
        seen += numbers(page.results)
        cursor = page.cursor
    assert (seen, cursor) == ([0, 1, 2, 3, 4, 5, 6], None)
    oldest = store.page(Filter(), limit=2, order="oldest").cursor
    newest = store.page(Filter(), limit=2).cursor
    for wrong, order in ((oldest, "newest"), (newest, "oldest")):
        with pytest.raises(ValueError, match="not of pages"):
            store.page(Filter(), cursor=wrong, order=order)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_several_verdicts_make_one_page_in_order(store: Store, order: Any) -> None:
    kinds = ("OK", "WARN", "NG", "NG", "WARN")
    store.add([result(n, verdict=kinds[n % 5]) for n in range(20)])
    wanted = Filter(verdict=("WARN", "NG", "NG"))
    expected = [n for n in range(20) if n % 5]
    seen, cursor = [], None
    while True:
        page = store.page(wanted, cursor=cursor, limit=3, order=order)
        seen += numbers(page.results)
        if (cursor := page.cursor) is None:
            break
    assert seen == (expected if order == "oldest" else expected[::-1])
    assert [int(i, 16) for i in store.ids(wanted, 3, "oldest")] == [1, 2, 3]


def test_what_nobody_spoke_of_and_what_was_withdrawn_is_one(store: Store) -> None:
    store.add([result(n, kept=True, calibrated_verdict="OK", verdict="OK") for n in range(1, 6)])
    for number, kind in (
        (1, "missed_defect"),
        (2, "missed_defect"),
        (2, "withdrawn"),
        (3, "withdrawn"),
        (3, "missed_defect"),
        (4, "confirmed_good"),
    ):
        store.add_feedback(spoken(number, kind, defect="pore" if kind == "missed_defect" else None))
    assert numbers(store.page(Filter(feedback="none")).results) == [5, 2]
    assert numbers(store.page(Filter(feedback="missed_defect")).results) == [3, 1]
    assert numbers(store.page(Filter(defect="pore")).results) == [3, 1]
    assert numbers([one.result for one in store.defects("flange")]) == [3, 1]
    assert numbers(store.kept_normals(Filter(), 9)) == [5, 4, 2]
    ids = [f"{n:032x}" for n in range(1, 7)]
    kinds = {int(i, 16): kind for i, kind in store.last_kinds(ids).items()}
    assert kinds == {1: "missed_defect", 3: "missed_defect", 4: "confirmed_good"}
    assert numbers(store.by_ids([ids[4], ids[5], ids[0]])) == [5, 1]


def test_what_is_not_kept_includes_what_does_not_say(store: Store) -> None:
    store.add([result(n, kept=(True, False, None)[n % 3]) for n in range(6)])
    assert numbers(store.page(Filter(kept=True)).results) == [3, 0]
    assert numbers(store.page(Filter(kept=False)).results) == [5, 4, 2, 1]


@pytest.mark.parametrize("few", [2000, 2, 0])  # by numbers, by a span of time, by neither
def test_a_part_or_a_lot_is_found_by_its_beginning(
    store: Store, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("record.searching._FEW", few)
    monkeypatch.setattr("record.searching._COMMON", 2 * few)
    names = ["A_1", "AB1", "a_2", "A_", "B", "B-9", "B-9é", "B%", None, "Ä1"]
    lots = [None] * 8 + ["B-90", "A"]
    store.add([result(n, part_id=names[n], lot=lots[n]) for n in range(10)])
    for beginning, expected in {
        "A_": [3, 0],
        "A": [9, 3, 1, 0],
        "B-9": [8, 6, 5],
        "B%": [7],
        "%": [],
        "'": [],
        "Ä": [9],
        "\U0001f600": [],
        "B-9é": [6],
    }.items():
        assert numbers(store.page(Filter(search=beginning)).results) == expected, beginning
    left = Filter(search="B", camera="left")
    assert numbers(store.page(left, order="oldest").results) == [5, 7]
    first = store.page(Filter(search="B"), limit=2)
    assert numbers(store.page(Filter(search="B"), cursor=first.cursor).results) == [6, 5, 4]


def test_each_camera_says_what_it_sent(store: Store) -> None:
    rows = [
        *(result(n, camera="left", verdict="NG" if n % 4 == 0 else "OK") for n in range(0, 60, 2)),
        *(result(n, camera=None, verdict="WARN") for n in (1, 11, 41)),
        result(63, camera="right", verdict="OK"),
        result(65, camera="old", verdict="NG", inspected_at=NOON - timedelta(days=40)),
        result(67, camera="silent", verdict="NG", inspected_at=NOON - timedelta(days=20)),
    ]
    store.add(rows)
    month = NOON - timedelta(days=30)
    left, right, nameless, silent = sorted(
        store.cameras(NOON + timedelta(seconds=10), month),
        key=lambda one: ["left", "right", None, "silent"].index(one.camera),
    )
    assert left.verdicts == {"OK": 13, "WARN": 0, "NG": 12}
    assert (left.takt_s, numbers([left.last])) == (2.0, [58])
    assert (right.verdicts["OK"], right.takt_s) == (1, None)
    assert (nameless.verdicts["WARN"], nameless.takt_s) == (2, 20.0)
    assert (sum(silent.verdicts.values()), numbers([silent.last])) == (0, [67])
    order = [one.camera for one in store.cameras(NOON, month)]
    assert order == ["right", "left", None, "silent"]
    assert store.cameras(NOON, NOON + timedelta(days=1)) == []
