import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.errors import ConfigError, ShapeError
from anomaly.mae import take
from anomaly.masking import MaskingConfig
from anomaly.model import AnomalyModel, ModelConfig
from anomaly.preprocess import PreprocessConfig
from anomaly.scoring import (
    ScoringConfig,
    cosine_error,
    image_masks,
    l2_error,
    msgms_error,
    reconstruct,
)
from anomaly.targets import TargetConfig
from anomaly.types import Grid
from anomaly.windows import window_indices, window_of


class Echo(torch.nn.Module):
    """Predicts of each hidden token its own position, and remembers nothing else."""

    def forward(
        self, tokens: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        return queries.unsqueeze(-1).float().expand(-1, -1, tokens.shape[2])


class Counting(Echo):
    """Remembers how many rows came at once."""

    rows: list[int]

    def forward(
        self, tokens: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        self.rows.append(len(tokens))
        return super().forward(tokens, visible, queries)


class EchoTokens(torch.nn.Module):
    """Predicts the true token, so that windows can be followed."""

    def forward(
        self, tokens: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        return take(tokens, queries)


WHOLE = torch.arange(16).view(1, 16)


@pytest.mark.parametrize("show", ["rest", "part"])
@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("max_rows", [1, 4, 1000])
def test_every_patch_gets_its_own_prediction(show: str, parts: int, max_rows: int) -> None:
    masks = image_masks([1, 2, 3], 1, 16, MaskingConfig(parts, 2, show))
    found = reconstruct(Echo(), torch.zeros(3, 16, 4), masks, WHOLE, max_rows=max_rows)
    assert found.shape == (3, 2, 16, 4)
    wanted = torch.arange(16.0).view(1, 1, 16, 1).expand(3, 2, -1, 4)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("max_rows", [1, 2, 4, 7])
def test_no_more_rows_go_through_the_autoencoder_at_once_than_may(max_rows: int) -> None:
    masks = image_masks([1, 2, 3], 1, 16, MaskingConfig(5, 2, "rest"))
    model = Counting()
    model.rows = []
    reconstruct(model, torch.zeros(3, 16, 4), masks, WHOLE, max_rows=max_rows)
    assert max(model.rows) <= max_rows
    assert sum(model.rows) == 3 * 2 * 5


def test_windows_of_a_larger_grid_are_put_together_where_they_belong() -> None:
    grid = Grid(7, 5, 8)
    window = window_of(grid, 4)
    indices = window_indices(grid, window)
    assert window == Grid(4, 4, 8)
    assert len(indices) == 4
    assert set(indices.flatten().tolist()) == set(range(35))
    tokens = torch.randn(2, 35, 3)
    masks = image_masks([5, 6], len(indices), window.length, MaskingConfig())
    found = reconstruct(EchoTokens(), tokens, masks, indices, max_rows=8)
    torch.testing.assert_close(found, tokens.unsqueeze(1).expand(-1, 2, -1, -1))


def test_masks_must_fit_the_tokens() -> None:
    masks = image_masks([1], 1, 16, MaskingConfig())
    with pytest.raises(ShapeError, match="tokens"):
        reconstruct(Echo(), torch.zeros(2, 16, 4), masks, WHOLE, max_rows=8)


def test_a_perfect_prediction_has_no_error() -> None:
    tokens = torch.randn(2, 16, 12)
    assert float(l2_error(tokens, tokens).max()) == 0
    assert float(cosine_error(tokens, tokens).abs().max()) < 1e-6


def test_l2_and_cosine_are_what_they_say() -> None:
    a, b = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[4.0, 3.0]]])
    assert float(l2_error(a, b)) == pytest.approx(1.0)
    assert float(cosine_error(a, b)) == pytest.approx(1 - 24 / 25)


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
    error = torch.cat([one.values for one in alone])
    torch.testing.assert_close(together.values, error, atol=1e-5, rtol=1e-5)
    assert together.values.shape == (5, 2, 4, 64)
    assert together.names == (
        "masked.pixels.l2",
        "masked.pixels.msgms",
        "memory.pixels",
        "repair.pixels",
    )


def test_features_give_evidence_by_family_and_stage_on_the_finest_grid() -> None:
    model = AnomalyModel.fresh(ModelConfig(scoring=ScoringConfig(memory_size=50))).eval()
    errors = model(torch.rand(2, 3, 224, 224), [1, 2])
    assert errors.values.shape == (2, 2, 16, 28 * 28)
    assert errors.names[0] == "masked.stage1.cosine"
    assert [name.split(".")[0] for name in errors.names] == (
        ["masked"] * 8 + ["memory"] * 4 + ["repair"] * 4
    )
    assert bool((errors.values[:, :, :12] >= -1e-6).all())
    assert torch.equal(errors.averaged().values[:, 0], errors.mean)


def test_a_larger_canvas_is_covered_by_windows() -> None:
    config = ModelConfig(
        preprocess=PreprocessConfig(canvas=320), scoring=ScoringConfig(("masked",))
    )
    model = AnomalyModel.fresh(config).eval()
    assert model.mae.position.shape[1] == 14 * 14
    assert model.window_indices.shape == (4, 196)
    assert model(torch.rand(1, 3, 320, 320), [1]).values.shape == (1, 2, 8, 40 * 40)


@pytest.mark.parametrize("target", [TargetConfig(), TargetConfig(kind="pixels", norm_patches=True)])
def test_gradients_are_compared_only_where_there_is_an_image(target: TargetConfig) -> None:
    with pytest.raises(ConfigError, match="msgms"):
        ModelConfig(target=target, scoring=ScoringConfig(errors=("msgms",)))


@pytest.mark.parametrize(
    "wrong",
    [{"errors": ()}, {"errors": ("l3",)}, {"max_rows": 0}, {"families": ()}, {"memory_size": 0}],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScoringConfig(**wrong)
