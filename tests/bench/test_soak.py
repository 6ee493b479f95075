from pathlib import Path

import pytest

from bench.soak import Held, grown, report, soak
from training.progress import QUIET


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (Held(509, 20, 10), []),
        (Held(560, 20, 10), ["memory grew from 500 to 560 MB"]),
        (Held(500, 40, 10), ["files grew from 20 to 40"]),
        (Held(500, 20, 15), ["threads grew from 10 to 15"]),
    ],
)
def test_growth_is_told_by_the_second_and_the_last_quarter(last: Held, said: list[str]) -> None:
    steady = Held(500, 20, 10)
    assert grown([Held(300, 10, 5), *[steady] * 5, last, last]) == said


def test_too_short_a_run_promises_nothing() -> None:
    assert "too short" in grown([Held(1, 1, 1)] * 7)[0]


@pytest.mark.slow
def test_the_soak_asks_in_every_form_and_finds_nothing_to_complain_of(tiny_folder: Path) -> None:
    seen = soak(tiny_folder, 6, 30, progress=QUIET)
    assert seen.failures == []
    assert seen.answers["raw 200"] > 10
    assert len(seen.answers) > 5
    assert "| 4 |" in report(seen)
