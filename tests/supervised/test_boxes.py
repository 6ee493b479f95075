from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.ops import box_convert, box_iou

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.boxes import BoxConfig, BoxDetector, boxes_in_image
from supervised.tasks import SupervisedConfig, build_network
from tests.supervised.test_pyramid import encoder

SMALL = BoxConfig(channels=16, head_width=32, proposals=32, score_floor=0.0, at_most=10)
KINDS = ("dent", "scratch")


def detector(seed: int = 0) -> BoxDetector:
    network = encoder()
    torch.manual_seed(seed)
    return BoxDetector(network, KINDS, SMALL)


def target(*rows: tuple[float, float, float, float, int]) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([row[:4] for row in rows]).reshape(-1, 4)
    return {"boxes": boxes.float(), "labels": torch.tensor([row[4] for row in rows]).long()}


def scene() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """A dark square and a bright bar on grey, and a canvas without anything."""
    pixels = torch.full((2, 3, 64, 64), 0.5)
    pixels[0, :, 10:26, 8:24] = 0.0
    pixels[0, :, 40:52, 30:54] = 1.0
    return pixels, [target((8, 10, 24, 26, 1), (30, 40, 54, 52, 2)), target()]


@pytest.mark.slow
def test_steps_lower_the_loss_and_then_the_boxes_lie_right() -> None:
    network = detector()
    pixels, targets = scene()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    torch.manual_seed(0)  # torchvision draws which proposals count
    for _ in range(90):
        loss = torch.stack(list(network.train().losses(pixels, targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    with torch.inference_mode():
        seen, empty = network.eval().answers(pixels, [Placement.filling(64)] * 2)
    said = torch.tensor([b.bbox for b in seen.boxes[:5]]).float()
    fits = box_iou(box_convert(said, "xywh", "xyxy"), targets[0]["boxes"])
    assert fits[:, 0].max() > 0.6
    assert {box.kind for box in seen.boxes if box.probability > 0.5} == set(KINDS)
    assert all(box.probability < 0.3 for box in empty.boxes)


def test_an_image_without_any_box_is_trained_on_too() -> None:
    losses = detector().train().losses(torch.rand(1, 3, 64, 64), [target()])
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
    }
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("box", [(5, 5, 5, 9, 1), (5, 9, 8, 9, 1), (9, 5, 5, 9, 1)])
def test_a_box_without_area_is_refused(box: Any) -> None:
    with pytest.raises(ConfigError, match="has no area"):
        detector().train().losses(torch.rand(1, 3, 64, 64), [target(box)])


def test_a_saved_and_loaded_detector_answers_the_same(tmp_path: Path) -> None:
    network, pixels = detector().eval(), torch.rand(2, 3, 64, 64)
    save_file(network.state_dict(), tmp_path / "detector.safetensors")
    loaded = detector(seed=1)
    loaded.load_state_dict(load_file(tmp_path / "detector.safetensors"))
    places = [Placement.filling(64)] * 2
    with torch.inference_mode():
        answers = network.answers(pixels, places)
        assert loaded.eval().answers(pixels, places) == answers
    assert 0 < len(answers[0].boxes) <= 10


def test_an_answer_does_not_depend_on_batch_mates() -> None:
    network, pixels = detector().eval(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        [alone], [beside, _] = network(pixels[:1]), network(pixels)
    assert torch.allclose(alone["boxes"], beside["boxes"], atol=1e-3)
    assert torch.equal(alone["labels"], beside["labels"])


def test_half_precision_around_does_not_reach_the_boxes() -> None:
    pixels, targets = scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector().train().losses(pixels, targets)
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_boxes_come_back_in_the_caller_s_pixels_and_the_border_is_none() -> None:
    # 100 × 200 px in the middle of a 64 × 64 canvas: 3.125 of the caller's pixels to one.
    placement = Placement((100, 200), (64, 64), (16, 0, 48, 64))
    answer = {
        "boxes": torch.tensor([[16.0, 20, 32, 36], [0, 2, 60, 15], [0, 8, 32, 24]]),
        "labels": torch.tensor([1, 2, 2]),
        "scores": torch.tensor([0.75, 0.5, 0.25]),
    }
    seen = boxes_in_image(answer, placement, KINDS)
    assert [(box.bbox, box.kind, box.probability) for box in seen] == [
        ((50, 12, 50, 50), "dent", 0.75),
        ((0, 0, 100, 25), "scratch", 0.25),
    ]


def test_the_encoder_is_frozen_partly_or_trained() -> None:
    for blocks, trained in ((0, 0), (1, 1)):
        network = detector().train()
        network.encoder.train_last(blocks)
        pixels, targets = scene()
        torch.stack(list(network.losses(pixels, targets).values())).sum().backward()
        moved = [any(p.grad is not None for p in b.parameters()) for b in network.encoder.blocks]
        assert sum(moved) == trained
        assert network.pyramid.levels[0][1].weight.grad is not None


@pytest.mark.parametrize(
    "settings",
    [{"channels": 0}, {"anchors": ()}, {"anchors": (0.0,)}, {"overlap": 1.0}, {"score_floor": -1}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="head"):
        BoxConfig(**settings)


def test_the_table_of_tasks_builds_it() -> None:
    network = encoder()
    head = {"channels": 16, "head_width": 32}
    config = SupervisedConfig("detection", KINDS, network.config, head)
    assert isinstance(build_network(config, network), BoxDetector)
