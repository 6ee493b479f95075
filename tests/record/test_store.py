from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from record.store import Filter, Store, StoreError
from record.tables import metadata

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
        "recipe": None,
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


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(one["result_id"], 16) for one in rows]


def test_what_is_stored_comes_back_whole(store: Store) -> None:
    assert store.add([row(1)]) == 1
    found = store.find(f"{1:032x}")
    assert found is not None
    assert {key: found[key] for key in row(1)} == row(1)
    assert store.find("none") is None


def test_a_result_is_stored_once_however_often_it_comes(store: Store) -> None:
    assert store.add([row(1), row(2)]) == 2
    assert store.add([row(2), row(3), row(3)]) == 1
    assert store.add([row(4, idempotency_key="K")]) == 1
    assert store.add([row(5, idempotency_key="K")]) == 0
    first = store.repeated("K")
    assert first is not None
    assert first["part_id"] == "P4"
    assert numbers(store.page(Filter()).rows) == [4, 3, 2, 1]


def test_pages_are_cut_by_a_cursor_and_miss_nothing_that_comes_meanwhile(store: Store) -> None:
    store.add([row(n) for n in range(10)])
    first = store.page(Filter(), limit=4)
    store.add([row(n) for n in range(10, 13)])
    second = store.page(Filter(), cursor=first.cursor, limit=4)
    third = store.page(Filter(), cursor=second.cursor, limit=4)
    assert numbers(first.rows + second.rows + third.rows) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
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
    store.add([row(n) for n in range(10)])
    assert numbers(store.page(wanted).rows) == found


def test_moments_keep_their_meaning_whatever_zone_they_came_in(store: Store) -> None:
    from datetime import timezone

    berlin = timezone(timedelta(hours=2))
    store.add([row(1, inspected_at=NOON.astimezone(berlin))])
    assert store.page(Filter(since=NOON, until=NOON + timedelta(seconds=1))).rows
    found = store.find(f"{1:032x}")
    assert found is not None
    assert found["inspected_at"] == NOON
    assert found["inspected_at"].tzinfo == UTC


def test_migrations_make_the_tables_that_the_code_means(store: Store) -> None:
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_a_store_is_opened_again_with_what_it_has(url: str) -> None:
    first = Store.open(url)
    first.add([row(1)])
    first.close()
    second = Store.open(url)
    assert numbers(second.page(Filter()).rows) == [1]
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
        assert store.add([row(number)]) == 1
        store.close()


def test_normals_to_calibrate_on_are_what_passed_and_what_people_called_good(store: Store) -> None:
    store.add([row(n, kept=n != 8) for n in range(1, 13)])  # NG are 3, 6, 9, 12

    def say(number: int, kind: str) -> None:
        said = {"result_id": f"{number:032x}", "said_at": NOON, "said_by": "q", "kind": kind}
        store.add_feedback(said | {"defect": None, "comment": None})

    say(3, "false_alarm")
    say(6, "confirmed_defect")
    say(9, "false_alarm")
    say(9, "confirmed_defect")  # the last counts
    say(1, "missed_defect")
    say(2, "confirmed_good")
    assert numbers(store.kept_normals(Filter(), 100)) == [11, 10, 7, 5, 4, 3, 2]
    assert numbers(store.kept_normals(Filter(camera="left"), 100)) == [11, 7, 5, 3]
    assert numbers(store.kept_normals(Filter(), 2)) == [11, 10]
    defects = {int(one["result_id"], 16): one["kind"] for one in store.kept_defects("flange", 9)}
    assert defects == {9: "confirmed_defect", 6: "confirmed_defect", 1: "missed_defect"}
    assert store.kept_defects("other", 9) == []
    assert numbers(store.kept_latest("flange", 3)) == [12, 11, 10]
    assert 8 not in numbers(store.kept_latest("flange", 100))


def test_old_results_are_forgotten_but_those_that_were_spoken_of(store: Store) -> None:
    store.add([row(n) for n in range(1, 11)])
    said = {"result_id": f"{2:032x}", "said_at": NOON, "said_by": None, "kind": "missed_defect"}
    store.add_feedback(said | {"defect": None, "comment": None})
    before = NOON + timedelta(seconds=7)
    assert store.forget(before, most=3) == 3
    assert store.forget(before) == 2
    assert store.forget(before) == 0
    assert numbers(store.page(Filter()).rows) == [10, 9, 8, 7, 2]


def test_pages_follow_the_time_of_inspection_also_where_rows_came_late(store: Store) -> None:
    store.add([row(n) for n in (5, 6, 7, 8)])
    store.add([row(n) for n in (1, 2, 3, 4)])  # out of the journal, after an outage
    store.add([row(9, inspected_at=NOON + timedelta(seconds=8))])  # the same moment as another
    seen, cursor = [], None
    for _ in range(5):
        page = store.page(Filter(), cursor=cursor, limit=2)
        seen += numbers(page.rows)
        cursor = page.cursor
    assert cursor is None
    assert seen == [9, 8, 7, 6, 5, 4, 3, 2, 1]
