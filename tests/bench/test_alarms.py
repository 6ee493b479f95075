import numpy as np
import torch

from anomaly.normal_set import NormalSet
from anomaly.scoring import Evidence
from anomaly.types import Grid
from bench.alarms import RATES, split_and_count, subset, table

GRID = Grid(4, 4, 16)


def drawn(count: int, per_group: int = 1) -> NormalSet:
    generator = torch.Generator().manual_seed(0)

    def errors(number: int, level: float) -> Evidence:
        error = level + torch.rand(number, 1, 2, GRID.length, generator=generator)
        return Evidence(error, ("masked.a", "memory.a"))

    return NormalSet(
        errors(count, 0.0),
        tuple(str(i // per_group) for i in range(count)),
        GRID,
        errors(2 * count, 0.2),
        tuple(i for i in range(count) for _ in range(2)),
    )


def test_a_subset_keeps_each_copy_with_its_image() -> None:
    normals = drawn(6)
    rows = np.array([True, False, True, True, False, False])
    some = subset(normals, rows)
    assert some.groups == ("0", "2", "3")
    assert some.origin == (0, 0, 1, 1, 2, 2)
    assert some.corrupted is not None
    assert normals.corrupted is not None
    torch.testing.assert_close(some.corrupted.values[2], normals.corrupted.values[4])


def test_exchangeable_groups_keep_what_is_stated() -> None:
    counts = split_and_count(drawn(200), 6, 0.6)
    assert len(counts) == 6 * len(RATES)
    for rate in (0.01, 0.05):
        own = [one for one in counts if one.rate == rate]
        assert all(one.certified for one in own)
        assert np.mean([one.rejected / one.groups for one in own]) <= 2 * rate
        assert np.mean([one.low <= one.rejected <= one.high for one in own]) > 0.7
    assert "| 5% |" in table(counts)
