from pathlib import Path

import pytest

from bench.fuzz import bodies, run
from training.progress import QUIET


@pytest.mark.slow
def test_damaged_bodies_are_answered_and_leave_nothing_behind(tiny_folder: Path) -> None:
    assert run(tiny_folder, 600, seed=1, progress=QUIET) == []


def test_the_same_seed_gives_the_same_bodies() -> None:
    assert list(bodies(30, 5)) == list(bodies(30, 5))
    assert len(set(bodies(30, 5))) > 20
