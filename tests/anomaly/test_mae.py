import numpy as np
import pytest
import torch

from anomaly.errors import ConfigError, ShapeError
from anomaly.mae import MaeConfig, MaskedAutoencoder, sincos_positions, take
from anomaly.masking import random_masks, split_indices
from anomaly.types import Grid

GRID = Grid(4, 4, 8)
SMALL = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


def model(**changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(MaeConfig(**(SMALL | changes)), GRID, 12).eval()


@pytest.mark.parametrize("decoder", ["query", "classic"])
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_predictions_have_the_queries_shape(
    decoder: str, class_token: bool, positions: str
) -> None:
    net = model(decoder=decoder, class_token=class_token, positions=positions)
    masks = random_masks(3, 16, 0.75, torch.Generator().manual_seed(0))
    visible, hidden = split_indices(masks)
    assert net(torch.randn(3, 16, 12), visible, hidden).shape == (3, 12, 12)


@pytest.mark.parametrize("decoder", ["query", "classic"])
def test_hidden_tokens_are_never_looked_at(decoder: str) -> None:
    net = model(decoder=decoder)
    tokens = torch.randn(2, 16, 12)
    visible, hidden = split_indices(random_masks(2, 16, 0.5, torch.Generator().manual_seed(0)))
    changed = tokens.scatter(1, hidden.unsqueeze(-1).expand(-1, -1, 12), 99.0)
    assert torch.equal(net(tokens, visible, hidden), net(changed, visible, hidden))


@pytest.mark.parametrize("decoder", ["query", "classic"])
def test_the_visible_ones_order_does_not_matter(decoder: str) -> None:
    net = model(decoder=decoder)
    tokens = torch.randn(2, 16, 12)
    visible, hidden = split_indices(random_masks(2, 16, 0.5, torch.Generator().manual_seed(0)))
    again = net(tokens, visible.flip(1), hidden)
    torch.testing.assert_close(net(tokens, visible, hidden), again, atol=1e-5, rtol=1e-5)


def test_a_query_costs_and_answers_the_same_whoever_else_is_asked() -> None:
    net = model(decoder="query")
    tokens = torch.randn(2, 16, 12)
    visible, hidden = split_indices(random_masks(2, 16, 0.5, torch.Generator().manual_seed(0)))
    together = net(tokens, visible, hidden)
    alone = torch.cat([net(tokens, visible, hidden[:, i : i + 1]) for i in range(8)], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_it_learns_to_predict_a_position_dependent_pattern() -> None:
    net = model().train()
    pattern = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(5))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        tokens = pattern * (1 + torch.rand(16, 1, 1, generator=generator))
        visible, hidden = split_indices(random_masks(16, 16, 0.6, generator))
        loss = (net(tokens, visible, hidden) - take(tokens, hidden)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2  # the pattern's own variance is about 2.3


def test_sincos_positions_match_the_papers_formula() -> None:
    found = sincos_positions(Grid(3, 5, 1), 16)[0].numpy()
    frequency = 1 / 10000 ** (np.arange(4) / 4)
    for index in range(15):
        row, col = divmod(index, 5)
        parts = [np.sin(col * frequency), np.cos(col * frequency)]
        parts += [np.sin(row * frequency), np.cos(row * frequency)]
        np.testing.assert_allclose(found[index], np.concatenate(parts), atol=1e-6)


def test_wrong_token_shapes_are_named() -> None:
    index = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"\(B, 16, 12\)"):
        model()(torch.zeros(1, 15, 12), index, index)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 5},
        {"depth": 0},
        {"decoder": "other"},
        {"positions": "none"},
        {"positions": "sincos", "decoder_width": 18, "decoder_heads": 2},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MaeConfig(**(SMALL | wrong))
