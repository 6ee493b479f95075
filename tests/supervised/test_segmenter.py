from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.segmenter import (
    IGNORED,
    MaskConfig,
    Segmenter,
    check_classes,
    mask_losses,
)
from supervised.tasks import SupervisedConfig, build_network
from tests.supervised.test_pyramid import encoder

SMALL = MaskConfig(channels=16, dropout=0.0)
KINDS = ("dent", "scratch")


def segmenter(seed: int = 0, depth: int = 2) -> Segmenter:
    network = encoder(depth=depth)
    torch.manual_seed(seed)
    return Segmenter(network, KINDS, SMALL)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A dark square and a bright bar on grey, and a canvas without anything."""
    pixels, classes = torch.full((2, 3, 64, 64), 0.5), torch.zeros(2, 64, 64, dtype=torch.long)
    for kind, (rows, columns), value in (
        (1, (slice(10, 26), slice(8, 24)), 0.0),
        (2, (slice(40, 48), slice(24, 56)), 1.0),
    ):
        pixels[0, :, rows, columns] = value
        classes[0, rows, columns] = kind
    return pixels, classes


def test_steps_lower_the_loss_and_then_the_masks_fit() -> None:
    network = segmenter()
    pixels, classes = scene()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = torch.stack(list(network.train().losses(pixels, classes).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    with torch.inference_mode():
        answers = network.eval().answers(pixels, [Placement.filling(64)] * 2)
    assert answers[0].mask is not None
    assert answers[1].mask is not None
    assert (answers[0].mask == classes[0].numpy()).mean() > 0.97
    assert (answers[1].mask > 0).mean() < 0.02


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_logits_are_of_the_canvas_s_size_whatever_the_depth(depth: int) -> None:
    network = segmenter(depth=depth).train()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)  # one: no batch statistics


def test_a_saved_and_loaded_segmenter_answers_the_same(tmp_path: Path) -> None:
    network, pixels = segmenter().eval(), torch.rand(2, 3, 64, 64)
    save_file(network.state_dict(), tmp_path / "segmenter.safetensors")
    loaded = segmenter(seed=1)
    loaded.load_state_dict(load_file(tmp_path / "segmenter.safetensors"))
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(pixels), network(pixels))


def test_what_is_ignored_teaches_nothing_not_even_where_all_is() -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    classes = torch.full((1, 8, 8), IGNORED)
    losses = mask_losses(logits, classes, SMALL)
    assert [float(loss.detach()) for loss in losses.values()] == [0.0, 0.0]
    classes[0, :4] = 1
    torch.stack(list(mask_losses(logits, classes, SMALL).values())).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, :, 4:].abs().max() == 0
    assert logits.grad[:, :, :4].abs().min() > 0


def test_the_background_counts_as_much_as_it_is_told_to() -> None:
    logits, classes = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    logits[0, 0] = 2.0  # wrong of the second pixel
    wrong, right = np.log1p(np.exp(2)), np.log1p(np.exp(-2))
    losses = mask_losses(logits, classes, MaskConfig(background_weight=0.25, dice_weight=0))
    assert set(losses) == {"cross_entropy"}
    assert float(losses["cross_entropy"]) == pytest.approx((0.25 * right + wrong) / 1.25)


def test_dice_is_zero_for_masks_that_fit_and_looks_at_shown_kinds_alone() -> None:
    classes = torch.zeros(1, 8, 8, dtype=torch.long)
    classes[0, :4] = 1
    sure = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 50
    assert float(mask_losses(sure, classes, SMALL)["dice"]) == pytest.approx(0, abs=1e-5)
    assert float(mask_losses(-sure, classes, SMALL)["dice"]) > 0.9


def test_a_mask_with_a_value_that_is_no_class_is_refused() -> None:
    check_classes(torch.tensor([0, 1, 2, IGNORED]), 2)
    for value in (3, 254, -1):
        with pytest.raises(ConfigError, match=f"the value {value}"):
            check_classes(torch.tensor([[0, value]]), 2)


@pytest.mark.parametrize(
    "settings", [{"channels": 0}, {"dropout": 1.0}, {"background_weight": 0}, {"dice_weight": -1}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="head"):
        MaskConfig(**settings)  # type: ignore[arg-type]


def test_the_table_of_tasks_builds_it() -> None:
    network = encoder()
    config = SupervisedConfig("segmentation", KINDS, network.config, {"channels": 16})
    assert isinstance(build_network(config, network), Segmenter)
