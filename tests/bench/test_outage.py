import sqlite3
from pathlib import Path
from random import Random

import pytest

from bench.results import result
from record.store import Store, StoreError

pytest.importorskip("aiohttp")

from bench.outage import Locked, Posted, _row


def test_a_locked_file_takes_no_rows_until_it_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("record.store._BUSY_S", 0.05)
    store = Store.open(f"sqlite:///{tmp_path / 'results.db'}")
    held = Locked(tmp_path / "results.db")
    held.stop()
    with pytest.raises(StoreError):
        store.add([result(1, Random(0))])
    held.start()
    assert store.add([result(1, Random(0))]) == 1
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (1,)


def test_what_is_missing_or_twice_is_counted() -> None:
    posted = Posted([0.0, 1.0, 2.0], [0.01, 0.02, 0.03], ["a", "b", "c"], failed=4)
    said = _row("sqlite", posted, ["a", "b", "b", "d"], (1.5, 3.0))
    assert said == "| sqlite | 3 | 4 | 1 | 1 | 19.9 ms, 30.0 ms, 1.51 | 4 |"
