import pytest
import torch

from anomaly.errors import ConfigError, ShapeError
from anomaly.mae import MaeConfig
from anomaly.preprocess import PreprocessConfig
from anomaly.targets import TargetConfig
from supervised.encoder import Encoder, EncoderConfig
from supervised.pyramid import (
    STRIDES,
    SimplePyramid,
    check_strides,
    maps_behind,
    rescaling,
    tapped_blocks,
)


def encoder(canvas: int = 64, patch: int = 8, *, bands: int = 1, depth: int = 2) -> Encoder:
    torch.manual_seed(0)
    mae = MaeConfig(width=16, depth=depth, heads=2, decoder_width=16, decoder_heads=2)
    return Encoder.fresh(
        EncoderConfig(
            PreprocessConfig(canvas, bands=bands), TargetConfig("pixels", patch=patch), mae
        )
    )


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_map_of_any_stride_comes_to_all_four(stride: int) -> None:
    levels = SimplePyramid(16, stride, 12)(torch.rand(2, 16, 64 // stride, 64 // stride))
    assert [level.shape for level in levels] == [(2, 12, 64 // s, 64 // s) for s in STRIDES]


def test_a_map_is_rescaled_by_as_many_deconvolutions_or_pools_as_it_takes() -> None:
    assert len(rescaling(64, 8, 8)[0]) == 0
    layers, width = rescaling(64, 16, 4)
    assert [type(layer).__name__ for layer in layers] == [
        "ConvTranspose2d",
        "LayerNorm2d",
        "GELU",
        "ConvTranspose2d",
    ]
    assert width == 16
    assert [type(layer).__name__ for layer in rescaling(64, 8, 32)[0]] == ["MaxPool2d"] * 2


def test_a_map_of_another_width_is_refused_by_its_shape() -> None:
    with pytest.raises(ShapeError, match=r"\(B, 16, h, w\)"):
        SimplePyramid(16, 8)(torch.rand(1, 8, 4, 4))


def test_what_cannot_be_brought_to_all_strides_is_refused() -> None:
    check_strides(encoder())
    with pytest.raises(ConfigError, match="power of two"):
        check_strides(encoder(96, 12))
    with pytest.raises(ConfigError, match="multiple of 32"):
        check_strides(encoder(48))
    with pytest.raises(ConfigError, match="bands"):
        check_strides(encoder(128, bands=2))


def test_maps_are_taken_evenly_and_the_last_block_is_among_them() -> None:
    assert tapped_blocks(12) == (2, 5, 8, 11)
    assert tapped_blocks(4) == (0, 1, 2, 3)
    assert tapped_blocks(2) == (0, 0, 1, 1)
    assert tapped_blocks(1) == (0, 0, 0, 0)


def test_a_block_named_twice_gives_its_map_twice() -> None:
    network, pixels = encoder().eval(), torch.rand(1, 3, 64, 64)
    maps = maps_behind(network, pixels, (0, 0, 1, 1))
    assert [m.shape for m in maps] == [(1, 16, 8, 8)] * 4
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[1], maps[2])
    assert torch.equal(maps[3], network(pixels, (1,)).maps[0])
