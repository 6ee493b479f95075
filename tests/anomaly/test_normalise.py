import pytest
import torch

from anomaly.errors import ShapeError
from anomaly.normalise import (
    NORMALISERS,
    PositionNormaliser,
    UniformNormaliser,
)


def errors(scale: torch.Tensor) -> torch.Tensor:
    """(400, 2, 6): the second error kind is a hundred times the first."""
    base = torch.randn(400, 1, 6, generator=torch.Generator().manual_seed(1)) * scale + 3 * scale
    return torch.cat([base, 100 * base], dim=1)


@pytest.mark.parametrize("kind", sorted(NORMALISERS))
def test_normal_errors_become_mean_zero_and_deviation_one(kind: str) -> None:
    error = errors(torch.ones(6))
    scores = NORMALISERS[kind].fit(error)(error.unsqueeze(1))
    assert scores.shape == (400, 1, 2, 6)
    for one in (scores[:, :, 0], scores[:, :, 1]):
        assert abs(float(one.mean())) < 0.05
        assert abs(float(one.std()) - 1) < 0.1


def test_position_levels_places_that_are_always_hard() -> None:
    error = errors(torch.tensor([1.0, 1, 1, 1, 1, 10]))
    scores = PositionNormaliser.fit(error)(error.unsqueeze(1))
    spread = scores[:, 0, 0].std(dim=0)
    assert float(spread.max() / spread.min()) < 1.2
    flat = UniformNormaliser.fit(error)(error.unsqueeze(1))
    assert float(flat[:, 0, 0, 5].mean()) > 1


def test_few_images_are_shrunk_towards_all_patches() -> None:
    error = errors(torch.ones(6))[:3]
    spread = PositionNormaliser.fit(error).spread
    assert float(spread[0].max() / spread[0].min()) < 1.5


def test_identical_normals_still_give_finite_scores() -> None:
    error = torch.full((10, 1, 6), 2.0)
    for cls in NORMALISERS.values():
        scores = cls.fit(error)(error.unsqueeze(1) + 1)
        assert bool(scores.isfinite().all())


def test_shapes_must_fit() -> None:
    with pytest.raises(ShapeError):
        PositionNormaliser.fit(torch.zeros(4, 6))
