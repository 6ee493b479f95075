"""Pages of a million stored results, and what retention costs: `python -m bench.results`.

Rows are invented like those of a line with three cameras; each filter that `GET /v1/results` has is
asked for its first page and for one deep in, on SQLite and on PostgreSQL.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import create_engine, text
from tqdm import tqdm

from bench.postgres import Postgres, binaries
from record.result import Feedback, Result
from record.store import Filter, Store

_START = datetime(2026, 1, 1, tzinfo=UTC)
_CHUNK = 5000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    for kind in options.databases.split(","):
        folder = Path(tempfile.mkdtemp(prefix="maskline-results-"))
        server = None
        if kind == "postgresql":
            binaries_folder = binaries()
            if binaries_folder is None:
                raise SystemExit("there is no PostgreSQL here: apt install postgresql")
            folder.chmod(0o755)
            (folder / "postgres").mkdir()
            server = Postgres(binaries_folder, folder / "postgres")
        url = f"sqlite:///{folder / 'results.db'}" if server is None else server.new_database("m")
        try:
            _measure(kind, url, options)
        finally:
            if server is not None:
                server.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _measure(kind: str, url: str, options: argparse.Namespace) -> None:
    store, random = Store.open(url), Random(0)
    started = time.monotonic()
    for first in tqdm(range(0, options.rows, _CHUNK), desc=kind, unit="chunk"):
        store.add([result(number, random) for number in range(first, first + _CHUNK)])
    rate = options.rows / (time.monotonic() - started)
    for number, stored in enumerate(store.page(Filter(verdict="NG"), limit=1000).results):
        feedback_kind = ("false_alarm", "confirmed_defect", "confirmed_defect")[number % 3]
        entry = Feedback(
            result_id=stored.result_id, created_at=_START, author="q", kind=feedback_kind
        )
        store.add_feedback(entry)
    with create_engine(url).connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()
    print(f"\n{kind}: {options.rows:,} rows, stored at {rate:,.0f} a second\n")
    print("| filter | first page of 100: median, worst | a page in the middle: median, worst |")
    print("|---|---|---|")
    middle = cursor_at(options.rows // 2)
    for name, filter_ in filters(options.rows).items():
        pages = [
            _times(partial(store.page, filter_, cursor=cursor), options.repeats)
            for cursor in (None, middle)
        ]
        print(f"| {name} | {pages[0]} | {pages[1]} |", flush=True)
    questions: dict[str, Callable[[], Any]] = {
        "normals to calibrate on": partial(store.kept_normals, Filter(model="flange"), 500),
        "cases": partial(store.defects, "flange"),
        "latest kept": partial(store.kept_latest, "flange", 1000),
    }
    for name, ask in questions.items():
        print(f"| {name} | {_times(ask, options.repeats)} | - |", flush=True)
    started = time.perf_counter()
    gone = store.forget(_START + timedelta(hours=3))
    print(f"\nretention: {gone:,} old rows deleted in {time.perf_counter() - started:.2f} s")
    store.close()


def cursor_at(number: int) -> str:
    """The cursor behind a row."""
    moment = _START + timedelta(seconds=number)
    return f"{round(moment.timestamp() * 1e6)}.{number}"


def filters(rows: int) -> dict[str, Filter]:
    """Each filter by itself, and what a person asks on a bad day."""
    day = _START + timedelta(seconds=rows // 2)
    return {
        "none": Filter(),
        "model": Filter(model="flange"),
        "camera": Filter(camera="cam1"),
        "lot": Filter(lot="L100"),
        "part": Filter(part_id="P1234"),
        "NG": Filter(verdict="NG"),
        "an hour": Filter(since=day, until=day + timedelta(hours=1)),
        "NG of a camera in an hour": Filter(
            camera="cam1", verdict="NG", since=day, until=day + timedelta(hours=1)
        ),
        "a verdict that never came": Filter(verdict="WARN"),
        "NG of a lot": Filter(lot="L100", verdict="NG"),
        "false alarms": Filter(feedback="false_alarm"),
        "NG of an old day": Filter(verdict="NG", until=_START + timedelta(hours=3)),
    }


def _times(ask: Callable[[], Any], repeats: int) -> str:
    seconds_taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        ask()
        seconds_taken.append(1000 * (time.perf_counter() - started))
    return f"{statistics.median(seconds_taken):.1f} ms, {max(seconds_taken):.1f} ms"


def result(number: int, random: Random) -> Result:
    """One made-up result; one part comes every second."""
    bad = random.random() < 0.02
    return Result(
        result_id=f"{random.getrandbits(128):032x}",
        idempotency_key=None,
        inspected_at=_START + timedelta(seconds=number),
        triggered_at=None,
        model="flange" if number % 4 else "bracket",
        version="v1",
        digest="0" * 64,
        calibration="1" * 64,
        kept=bad,
        part_id=f"P{number}",
        camera=f"cam{number % 3}",
        lot=f"L{number // 5000}",
        program=None,
        verdict="NG" if bad else "OK",
        is_anomalous=bad,
        score=random.random(),
        threshold=4.0,
        p_value=0.5,
        score_std=0.01,
        regions=[{"bbox": [1, 2, 3, 4], "area_px": 12}] if bad else [],
        timings={"decode": 0.001, "inference": 0.05},
        image_sha256="a" * 64,
    )


if __name__ == "__main__":
    main()
