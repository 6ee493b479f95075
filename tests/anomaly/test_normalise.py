import pytest
import torch

from anomaly.errors import ShapeError
from anomaly.normalise import (
    NORMALISERS,
    PositionNormaliser,
    TextureNormaliser,
    UniformNormaliser,
)

EXPECTED = torch.randn(400, 6, 3, generator=torch.Generator().manual_seed(9))


def errors(scale: torch.Tensor) -> torch.Tensor:
    """(400, 2, 6): the second error kind is a hundred times the first."""
    base = torch.randn(400, 1, 6, generator=torch.Generator().manual_seed(1)) * scale + 3 * scale
    return torch.cat([base, 100 * base], dim=1)


@pytest.mark.parametrize("kind", sorted(NORMALISERS))
def test_normal_errors_become_mean_zero_and_deviation_one(kind: str) -> None:
    error = errors(torch.ones(6))
    scores = NORMALISERS[kind].fit(error, EXPECTED)(error.unsqueeze(1), EXPECTED)
    assert scores.shape == (400, 1, 2, 6)
    for one in (scores[:, :, 0], scores[:, :, 1]):
        assert abs(float(one.mean())) < 0.05
        assert abs(float(one.std()) - 1) < 0.1


def test_position_levels_places_that_are_always_hard() -> None:
    error = errors(torch.tensor([1.0, 1, 1, 1, 1, 10]))
    scores = PositionNormaliser.fit(error, EXPECTED)(error.unsqueeze(1), EXPECTED)
    spread = scores[:, 0, 0].std(dim=0)
    assert float(spread.max() / spread.min()) < 1.2
    flat = UniformNormaliser.fit(error, EXPECTED)(error.unsqueeze(1), EXPECTED)
    assert float(flat[:, 0, 0, 5].mean()) > 1


def test_texture_levels_what_is_always_hard_wherever_it_lies() -> None:
    generator = torch.Generator().manual_seed(2)
    rough = torch.rand(400, 6, generator=generator) < 0.4
    expected = torch.where(rough.unsqueeze(-1), 5.0, -5.0) + 0.1 * EXPECTED
    error = torch.rand(400, 1, 6, generator=generator) * torch.where(rough, 10.0, 1.0).unsqueeze(1)
    texture = TextureNormaliser.fit(error, expected)(error.unsqueeze(1), expected)[:, 0, 0]
    position = PositionNormaliser.fit(error, expected)(error.unsqueeze(1), expected)[:, 0, 0]
    assert abs(float(texture[rough].mean())) < 0.05
    assert float(position[rough].mean()) > 0.5


def test_few_images_are_shrunk_towards_all_patches() -> None:
    error = errors(torch.ones(6))[:3]
    spread = PositionNormaliser.fit(error, EXPECTED[:3]).spread
    assert float(spread[0].max() / spread[0].min()) < 1.5


def test_identical_normals_still_give_finite_scores() -> None:
    error = torch.full((10, 1, 6), 2.0)
    for cls in NORMALISERS.values():
        scores = cls.fit(error, EXPECTED[:10])(error.unsqueeze(1) + 1, EXPECTED[:10])
        assert bool(scores.isfinite().all())


def test_shapes_must_fit() -> None:
    with pytest.raises(ShapeError):
        PositionNormaliser.fit(torch.zeros(4, 1, 6), EXPECTED[:3])
