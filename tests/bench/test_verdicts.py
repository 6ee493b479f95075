from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly.calibrate import calibrate
from anomaly.cost import Stakes
from anomaly.normal_set import NormalSet
from anomaly.scoring import Evidence
from anomaly.types import Grid
from bench.verdicts import Parts, drawn, learned_weights, operating_points, real_cost

GRID = Grid(4, 4, 16)


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Forty normals and a test split whose defects stand out in the first kind of evidence."""
    generator = torch.Generator().manual_seed(0)

    def evidence(count: int) -> torch.Tensor:
        return torch.rand(count, 1, 2, GRID.length, generator=generator)

    copies = evidence(80)
    copies[:, :, :, 5] += 0.5
    groups, origin = tuple(map(str, range(40))), tuple(i for i in range(40) for _ in range(2))
    names = ("masked.a", "memory.a")
    normals = NormalSet(
        Evidence(evidence(40), names), groups, GRID, Evidence(copies, names), origin
    )
    test = evidence(30)
    test[10:, :, 0, 5] += 1.0
    kinds = np.array(["good"] * 10 + ["scratch"] * 10 + ["dent"] * 10)
    return Parts(normals, calibrate(normals), Evidence(test, names), kinds)


def test_confirmed_defects_are_not_tested_and_new_kinds_are_not_confirmed(parts: Parts) -> None:
    modes = set()
    for mode, count, confirmed, tested in drawn(parts, 3):
        modes.add(mode)
        assert not set(confirmed) & set(tested)
        assert len(confirmed) == min(count, 10 if mode == "new" else 20)
        assert parts.bad[[*confirmed, *tested]].all()
        if mode == "new":
            assert not set(parts.kinds[confirmed]) & set(parts.kinds[tested])
    assert modes == {"same", "new"}
    alone = replace(parts, kinds=np.array(["good"] * 10 + ["dent"] * 20))
    assert {mode for mode, *_ in drawn(alone, 1)} == {"same"}


def test_escapes_and_false_alarms_cost_what_was_said() -> None:
    stakes = Stakes(100.0, 2.0, 0.01)
    alarms, caught = np.array([True, False, False, False]), np.array([True, False])
    assert real_cost(stakes, alarms, caught) == pytest.approx(1000 * (100 * 0.005 + 2 * 0.2475))


def test_dear_escapes_lower_the_threshold(parts: Parts) -> None:
    def chosen(escape: float) -> list[float]:
        rows = operating_points(parts, Stakes(escape, 1.0, 0.01), 2).splitlines()[4:]
        assert len(rows) == 2 * 5 - 1  # all twenty confirmed: none is left to test
        return [float(row.split("|")[3].strip(" %")) for row in rows]

    assert np.mean(chosen(1000.0)) > np.mean(chosen(1.0))


def test_learned_weights_are_laid_out_for_each_number_of_confirmed_defects(parts: Parts) -> None:
    lines = learned_weights(parts, 1, 1.0).splitlines()
    assert len(lines) == 2 + 2 * 4 - 1
    assert all("worst" in line for line in lines[2:])
