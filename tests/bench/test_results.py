from pathlib import Path
from random import Random

from bench.results import cursor_at, filters, result
from record.store import Filter, Store


def test_made_up_rows_are_results_and_filters_ask_for_some(tmp_path: Path) -> None:
    store, random = Store.open(f"sqlite:///{tmp_path / 'results.db'}"), Random(0)
    assert store.add([result(n, random) for n in range(600)]) == 600
    for name, wanted in filters(600).items():
        assert (
            store.page(wanted).results
            or name in ("lot", "part", "NG of a lot", "false alarms")
            or ("never" in name)
        ), name


def test_a_cursor_leads_behind_its_row(tmp_path: Path) -> None:
    store, random = Store.open(f"sqlite:///{tmp_path / 'results.db'}"), Random(0)
    store.add([result(n, random) for n in range(20)])
    page = store.page(Filter(), cursor=cursor_at(10))
    assert page.results[0].part_id == "P9"
