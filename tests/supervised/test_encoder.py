import pytest
import torch

from anomaly.model import AnomalyModel, ModelConfig
from anomaly.preprocess import PreprocessConfig
from anomaly.scoring import ScoringConfig
from supervised.encoder import Encoder, resampled
from tests.supervised.conftest import pretrained


@pytest.mark.parametrize("class_token", [False, True])
def test_it_is_the_autoencoders_encoder_with_every_token_visible(class_token: bool) -> None:
    model = pretrained(class_token=class_token)
    encoder = Encoder.pretrained(model)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        everything = torch.arange(64).expand(2, -1)
        expected = model.mae.encode(model.target(pixels), everything)
        encoded = encoder(pixels)
        tokens = encoder.norm(encoded.tokens)
    torch.testing.assert_close(tokens, expected[:, int(class_token) :])
    assert (encoded.class_token is not None) == class_token


def test_maps_lay_the_blocks_tokens_out_by_row_and_column() -> None:
    encoder = Encoder.pretrained(pretrained(class_token=True))
    encoded = encoder(torch.rand(2, 3, 64, 64), blocks=(0, 2))
    assert [tuple(m.shape) for m in encoded.maps] == [(2, 32, 8, 8)] * 2
    last = encoded.maps[1]
    torch.testing.assert_close(last[:, :, 3, 5], encoded.tokens[:, 3 * 8 + 5])


def test_windows_and_other_canvases_interpolate_positions() -> None:
    windowed = Encoder.pretrained(pretrained(window=4))
    assert windowed.position.shape == (1, 64, 32)
    larger = windowed.on(96)
    assert larger.position.shape == (1, 144, 32)
    assert larger(torch.rand(1, 3, 96, 96)).tokens.shape == (1, 144, 32)
    torch.testing.assert_close(larger.blocks[1].mlp.fc1.weight, windowed.blocks[1].mlp.fc1.weight)
    assert windowed.on(64) is windowed


def test_positions_of_the_same_grid_stay_as_they_are() -> None:
    encoder = Encoder.pretrained(pretrained())
    assert resampled(encoder.position, encoder.grid, encoder.grid) is encoder.position


def test_features_of_the_frozen_backbone_are_tokens_and_stay_frozen() -> None:
    config = ModelConfig(
        preprocess=PreprocessConfig(canvas=64), scoring=ScoringConfig(families=("masked",))
    )
    encoder = Encoder.pretrained(AnomalyModel.fresh(config))
    assert not any(p.requires_grad for p in encoder.target.parameters())
    encoder(torch.rand(1, 3, 64, 64)).tokens.sum().backward()
    assert encoder.embed.weight.grad is not None


def test_an_untrained_one_shares_the_tokens_and_no_weights() -> None:
    encoder = Encoder.pretrained(pretrained())
    other = encoder.untrained()
    assert other.target is encoder.target
    assert not torch.equal(other.embed.weight, encoder.embed.weight)


def test_the_last_blocks_train_alone() -> None:
    encoder = Encoder.pretrained(pretrained())
    encoder.train_last(1)
    trained = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "norm"}
    assert not encoder.blocks[1].mlp.fc1.weight.requires_grad
    encoder.train_last(0)
    assert not any(p.requires_grad for p in encoder.parameters())
