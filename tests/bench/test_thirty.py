from pathlib import Path

import pytest

from bench.thirty import drawn, table
from training.data import Dataset
from training.samples import Sample


def a_set(groups: int, each: int) -> Dataset:
    good = [
        Sample(Path(f"{g}-{i}.png"), "good", "train" if g % 4 else "validation", f"g{g}")
        for g in range(groups)
        for i in range(each)
    ]
    test = [Sample(Path(f"t{i}.png"), label, "test", f"t{i}") for i, label in enumerate("ab")]
    return Dataset(Path("set"), (*good, *test))


@pytest.mark.parametrize("draw", range(5))
def test_a_draw_is_of_so_many_normals_and_splits_no_group(draw: int) -> None:
    few = drawn(a_set(40, 3), 30, draw)
    normals = [sample for sample in few.samples if sample.split != "test"]
    assert len(normals) == 30
    held = {sample.session for sample in normals if sample.split == "validation"}
    rest = {sample.session for sample in normals if sample.split == "train"}
    assert held
    assert not held & rest
    assert len(few.select("test")) == 2
    assert [s.path for s in few.samples] == [s.path for s in drawn(a_set(40, 3), 30, draw).samples]


def test_draws_differ_and_the_table_has_their_means() -> None:
    one, other = ({s.path for s in drawn(a_set(60, 1), 30, draw).samples} for draw in (0, 1))
    assert one != other
    row = {
        "set": "a",
        "image_AUROC": 0.9,
        "recall": 0.5,
        "reachable": 0.75,
        "realised": 0.04,
        "covered": True,
        "train_s": 100,
        "kNN": 0.8,
    }
    line = table([row, row | {"image_AUROC": 0.8, "recall": 0.0}], ["kNN"]).splitlines()[-1]
    assert line == "| a | 2 | 0.850 | 0.800 | 0.250 / 0.750 | 4.0% | 100% | 1 | 100 |"
