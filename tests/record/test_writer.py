import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from record.journal import Journal
from record.store import Filter, Store, StoreError
from record.writer import Writer
from tests.record.conftest import Postgres
from tests.record.test_store import numbers, result, row


def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def stored(folder: Path) -> list[int]:
    store = Store.open(url(folder))
    found = numbers(store.page(Filter(), limit=100_000).results)
    store.close()
    return sorted(found)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'results.db'}"


def writer(folder: Path, open_store: Callable[[], Store] | None = None) -> Writer:
    opened = open_store or (lambda: Store.open(url(folder)))
    return Writer(Journal(folder / "journal"), opened, folder / "refused.jsonl")


def test_kept_rows_reach_the_store(tmp_path: Path) -> None:
    own = writer(tmp_path)
    assert all(own.keep(result(n)) for n in range(1200))
    own.close()
    assert stored(tmp_path) == list(range(1200))
    assert own.bytes_behind == 0


def test_keeping_a_row_takes_microseconds_while_the_store_is_away(tmp_path: Path) -> None:
    def away() -> Store:
        time.sleep(0.3)  # as a connection to a machine that does not answer
        raise StoreError("away")

    own = writer(tmp_path, away)
    results = [result(n) for n in range(500)]
    started = time.perf_counter()
    assert all(own.keep(one) for one in results)
    assert (time.perf_counter() - started) / 500 < 0.002
    own.close(0.1)
    assert own.bytes_behind > 0
    again = writer(tmp_path)
    again.close()
    assert stored(tmp_path) == list(range(500))


def test_it_tries_again_until_the_store_is_back(tmp_path: Path) -> None:
    tries = []

    def twice_away() -> Store:
        tries.append(1)
        if len(tries) < 3:
            raise StoreError("away")
        return Store.open(url(tmp_path))

    own = writer(tmp_path, twice_away)
    own.keep(result(1))
    until(lambda: own.bytes_behind == 0)
    assert len(tries) == 3
    own.close()
    assert stored(tmp_path) == [1]


def test_a_row_the_store_refuses_keeps_no_other_waiting(tmp_path: Path) -> None:
    own = writer(tmp_path)
    results = [result(1), result(2, model=None), result(3)]
    for one in results:
        own.keep(one)
    own.close()
    assert stored(tmp_path) == [1, 3]
    (refused,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["part_id"] == "P2"


def _keep_until_killed(folder: Path, said: Path) -> None:
    own = writer(folder)
    for n in range(1_000_000):
        own.keep(result(n))
        said.write_text(str(n))  # the part is answered


def test_a_killed_process_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    said = tmp_path / "said"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_keep_until_killed, args=(tmp_path, said))
    process.start()
    until(lambda: said.exists() and int(said.read_text() or 0) > 300)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    answered = int(said.read_text() or 0)
    writer(tmp_path).close()
    found = stored(tmp_path)
    assert found == list(range(len(found)))
    assert len(found) > answered


def test_a_postgresql_that_is_stopped_and_started_again_gets_every_row_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    address = postgres.new_database("stopped")
    own = writer(tmp_path, lambda: Store.open(address))
    for n in range(300):
        own.keep(result(n))
    until(lambda: own.bytes_behind == 0)
    postgres.stop()
    for n in range(300, 600):
        assert own.keep(result(n))
    time.sleep(0.5)
    assert own.bytes_behind > 0
    postgres.start()
    until(lambda: own.bytes_behind == 0)
    own.close()
    store = Store.open(address)
    assert sorted(numbers(store.page(Filter(), limit=1000).results)) == list(range(600))
    store.close()


def test_old_results_go_while_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    own = Writer(
        Journal(tmp_path / "journal"),
        lambda: Store.open(url(tmp_path)),
        tmp_path / "refused.jsonl",
        keep_days=1,
    )
    recent = datetime.now(UTC) - timedelta(hours=1)
    own.keep(result(1))  # of last spring
    own.keep(result(2, inspected_at=recent))
    own.close()
    again = Writer(
        Journal(tmp_path / "journal"),
        lambda: Store.open(url(tmp_path)),
        tmp_path / "refused.jsonl",
        keep_days=1,
    )
    until(lambda: stored(tmp_path) == [2])
    again.close()


def test_a_journal_of_the_version_before_is_brought_over(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    old = row(1) | {"inspected_at": "2026-03-01T12:00:00+00:00", "recipe": "R2"}
    del old["program"]
    first = Journal(tmp_path / "journal")
    first.close()
    with max((tmp_path / "journal").glob("*.jsonl")).open("ab") as file:
        file.write(json.dumps(old).encode() + b"\n")
    writer(tmp_path).close()
    store = Store.open(url(tmp_path))
    [brought] = store.page(Filter()).results
    store.close()
    assert brought.program == "R2"


def test_lines_that_are_no_results_are_set_aside_and_keep_no_result_waiting(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    as_kept = {name: str(value) for name, value in row(1).items() if name.endswith("_at")}
    whole = row(1) | as_kept
    odd = [
        b"\0" * 512 + b'{"half":1}',
        json.dumps({"half": 1}).encode(),
        json.dumps(whole | {"inspected_at": "yesterday"}).encode(),
        json.dumps(whole | {"score": "x"}).encode(),
        json.dumps(whole | {"score": float("nan")}).encode(),
        json.dumps(whole | {"part_id": "\ud800"}).encode(),
        json.dumps({k: v for k, v in whole.items() if k != "digest"}).encode(),
        json.dumps(whole | {"more": 1}).encode(),
        b"[" * 100_000,
        b"7",
    ]
    first = Journal(tmp_path / "journal")
    first.close()
    with max((tmp_path / "journal").glob("*.jsonl")).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in odd))
    refused: list[int] = []
    own = Writer(
        Journal(tmp_path / "journal"),
        lambda: Store.open(url(tmp_path)),
        tmp_path / "refused.jsonl",
        on_refused=lambda: refused.append(1),
    )
    for n in range(5):
        own.keep(result(n))
    own.close()
    assert stored(tmp_path) == [0, 1, 2, 3, 4]
    lines = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) == len(refused) >= len(odd)
    assert own.bytes_behind == 0


def test_an_error_that_nobody_expected_does_not_end_the_writer(tmp_path: Path) -> None:
    tries = []

    def odd() -> Store:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError
        return Store.open(url(tmp_path))

    own = writer(tmp_path, odd)
    own.keep(result(1))
    until(lambda: own.is_away)
    until(lambda: own.bytes_behind == 0)
    until(lambda: not own.is_away)
    own.close()
    assert stored(tmp_path) == [1]
