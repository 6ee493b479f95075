import pytest
import torch

from anomaly.image_score import Reduction
from anomaly.types import Grid

GRID = Grid(6, 6, 8)


def test_reductions_do_what_they_say() -> None:
    scores = torch.zeros(1, 36)
    scores[0, 14] = 1.0
    assert float(Reduction(0.0, 0.0).image_score(scores)) == 1.0
    assert float(Reduction(0.0, 1.0).image_score(scores)) == pytest.approx(1 / 36)
    smoothed = Reduction(0.8).smooth(scores, GRID)
    assert int(smoothed.argmax()) == 14
    assert float(smoothed.sum()) == pytest.approx(1.0, abs=0.01)  # the border takes its share
    assert float(smoothed.max()) < 0.5
    constant = torch.full((2, 3, 36), 4.0)
    torch.testing.assert_close(Reduction(0.8).smooth(constant, GRID), constant)


def test_what_does_not_count_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 36, generator=generator)
    counts = torch.rand(4, 36, generator=generator) > 0.4
    wild = torch.where(counts, scores, 1e6)
    for reduction in (Reduction(0.8, 0.1), Reduction(0.0, 0.0), Reduction(0.5, 1.0)):
        calm, loud = reduction(scores, GRID, counts), reduction(wild, GRID, counts)
        torch.testing.assert_close(calm, loud)
        assert bool((reduction.smooth(wild, GRID, counts)[~counts] == 0).all())


def test_counting_everything_is_counting_as_ever() -> None:
    scores = torch.rand(3, 2, 36, generator=torch.Generator().manual_seed(1))
    everything = torch.ones(3, 1, 36, dtype=torch.bool)
    for reduction in (Reduction(0.8, 0.1), Reduction(0.5, 0.01), Reduction(0.0, 1.0)):
        torch.testing.assert_close(reduction(scores, GRID, everything), reduction(scores, GRID))


def test_the_top_share_is_of_what_counts() -> None:
    scores = torch.arange(36.0)
    counts = scores < 20
    assert float(Reduction(0.0, 0.1)(scores, GRID, counts)) == pytest.approx(18.5)  # 19 and 18
