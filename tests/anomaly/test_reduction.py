import pytest
import torch

from anomaly.reduction import Reduction
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
