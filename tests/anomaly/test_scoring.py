import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.errors import ConfigError, ShapeError
from anomaly.masking import MaskingConfig
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.scoring import (
    ScoringConfig,
    cosine_error,
    fit_whitening,
    image_masks,
    l2_error,
    msgms_error,
    patch_errors,
    reconstruct,
    whitened_error,
)
from anomaly.targets import TargetConfig
from anomaly.types import Grid


class Echo(torch.nn.Module):
    """Predicts of each hidden token its own position, and remembers nothing else."""

    def forward(
        self, tokens: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        return queries.unsqueeze(-1).float().expand(-1, -1, tokens.shape[2])


@pytest.mark.parametrize("show", ["rest", "part"])
@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("max_rows", [1, 4, 1000])
def test_every_patch_gets_its_own_prediction(show: str, parts: int, max_rows: int) -> None:
    masks = image_masks([1, 2, 3], 16, MaskingConfig(parts, 2, show))
    found = reconstruct(Echo(), torch.zeros(3, 16, 4), masks, max_rows=max_rows)
    assert found.shape == (3, 2, 16, 4)
    wanted = torch.arange(16.0).view(1, 1, 16, 1).expand(3, 2, -1, 4)
    torch.testing.assert_close(found, wanted)


def test_masks_must_fit_the_tokens() -> None:
    masks = image_masks([1], 16, MaskingConfig())
    with pytest.raises(ShapeError, match="tokens"):
        patch_errors(Echo(), torch.nn.Identity(), torch.zeros(1, 9, 4), masks)


def test_a_perfect_prediction_has_no_error() -> None:
    tokens = torch.randn(2, 16, 12)
    assert float(l2_error(tokens, tokens).max()) == 0
    assert float(cosine_error(tokens, tokens).abs().max()) < 1e-6


def test_l2_and_cosine_are_what_they_say() -> None:
    a, b = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
    assert float(l2_error(a, b)) == pytest.approx(1.0)
    assert float(cosine_error(a, b)) == pytest.approx(1 - 24 / 25)


def test_whitening_makes_residuals_unit_and_matches_mahalanobis() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator)
    residuals = torch.randn(4000, 5, generator=generator) @ mixing + 3
    whitening, bias = fit_whitening(residuals, shrinkage=0.0)
    white = (residuals - bias) @ whitening
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), atol=1e-3, rtol=0)
    precision = np.linalg.inv(np.cov(residuals.numpy().T))
    centred = residuals[:7].numpy() - residuals.mean(dim=0).numpy()
    wanted = np.sqrt(np.einsum("nc,cd,nd->n", centred, precision, centred) / 5)
    found = whitened_error(torch.zeros(1, 7, 5), residuals[None, :7], whitening, bias)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-3)


def test_whitening_survives_fewer_residuals_than_channels() -> None:
    whitening, _ = fit_whitening(torch.randn(4, 30))
    assert bool(whitening.isfinite().all())


def test_gradient_similarity_sees_an_edge_and_not_a_shift_in_brightness() -> None:
    grid = Grid(4, 4, 8)
    flat = torch.full((1, 16, 192), 0.5)
    brighter = flat + 0.2
    edged = flat.clone()
    edged[0, 5, ::6] = 1.0
    assert float(msgms_error(flat, brighter, grid).max()) < 1e-4
    errors = msgms_error(flat, edged, grid)[0]
    assert int(errors.argmax()) == 5


def test_scores_do_not_depend_on_batch_mates(tiny_bundle: Bundle) -> None:
    pixels = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    seeds = [11, 12, 13, 14, 15]
    together = tiny_bundle.model(pixels, seeds)
    alone = [tiny_bundle.model(pixels[i : i + 1], seeds[i : i + 1]) for i in range(5)]
    error = torch.cat([one.error for one in alone])
    torch.testing.assert_close(together.error, error, atol=1e-5, rtol=1e-5)
    assert together.error.shape == (5, 2, 2, 64)


def test_features_can_be_scored_with_all_errors() -> None:
    config = ModelConfig(scoring=ScoringConfig(("cosine", "l2", "whitened")))
    model = AnomalyModel.fresh(config).eval()
    errors = model(torch.rand(2, 3, 224, 224), [1, 2])
    assert errors.error.shape == (2, 2, 3, 196)
    assert bool((errors.error >= -1e-6).all())


@pytest.mark.parametrize("target", [TargetConfig(), TargetConfig(kind="pixels", norm_patches=True)])
def test_gradients_are_compared_only_where_there_is_an_image(target: TargetConfig) -> None:
    with pytest.raises(ConfigError, match="msgms"):
        ModelConfig(target=target, scoring=ScoringConfig(("msgms",)))


@pytest.mark.parametrize("wrong", [{"errors": ()}, {"errors": ("l3",)}, {"max_rows": 0}])
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScoringConfig(**wrong)
