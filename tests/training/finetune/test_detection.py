import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomaly.types import Placement
from supervised.types import Answer, Box
from tests.supervised.test_boxes import detector, scene
from training.errors import DataError
from training.finetune.batch import LabelledBatch
from training.finetune.config import LossConfig
from training.finetune.detection import BoxTruth, DetectionTraining, boxes_of, moved, on_canvas
from training.samples import Sample

STAYS = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
MIRRORED = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
PLAIN = Placement.filling(64)
TASK = DetectionTraining(LossConfig())


def sample(root: Path, kind: str, text: str | None = None, name: str = "a") -> Sample:
    if text is not None:
        (root / "boxes" / kind).mkdir(parents=True, exist_ok=True)
        (root / "boxes" / kind / f"{name}.txt").write_text(text)
    return Sample(root / "test" / kind / f"{name}.png", kind, "test", name)


def target(*boxes: tuple[float, float, float, float]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4).float(),
        "labels": torch.arange(1, len(boxes) + 1),
    }


def test_kinds_are_those_of_the_boxes(tmp_path: Path) -> None:
    samples = [
        sample(tmp_path, "defect", "1 1 9 9 spur\n1 1 9 9 open\n"),
        sample(tmp_path, "defect", "1 1 9 9 spur\n", name="b"),
        sample(tmp_path, "good"),
    ]
    assert TASK.classes(samples) == ("open", "spur")
    with pytest.raises(DataError, match="labelled box"):
        TASK.classes(samples[2:])


def test_a_missing_library_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DataError, match="pip install"):
        TASK.classes([sample(tmp_path, "defect", "1 1 9 9 spur\n")])


def test_a_truth_lies_on_the_canvas_and_keeps_the_image_s_own_boxes(tmp_path: Path) -> None:
    placement = Placement((100, 200), (64, 64), (16, 0, 48, 64))
    truth = TASK.truth(
        sample(tmp_path, "defect", "50 12.5 100 62.5 spur\n"), placement, ("open", "spur")
    )
    assert truth.target["boxes"].tolist() == [[16, 20, 32, 36]]
    assert truth.target["labels"].tolist() == [2]
    assert truth.boxes.corners.tolist() == [[50, 12.5, 100, 62.5]]
    good = TASK.truth(sample(tmp_path, "good"), placement, ("open",))
    assert good.target["boxes"].shape == (0, 4)


def test_a_kind_that_was_not_trained_and_a_box_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="boxes of spur, which no training image has"):
        TASK.truth(sample(tmp_path, "defect", "1 1 9 9 spur\n"), PLAIN, ("open",))
    with pytest.raises(DataError, match="outside"):
        TASK.truth(sample(tmp_path, "a", "1 1 99 9 open\n"), PLAIN, ("open",))


@given(st.tuples(st.integers(40, 4000), st.integers(40, 4000)), st.booleans())
def test_a_canvas_leads_back_to_the_image(size: tuple[int, int], stretched: bool) -> None:
    box = (0, 0, 64, 64) if stretched else (8, 0, 56, 64)
    placement = Placement(size, (64, 64), box)
    x1, y1, x2, y2 = on_canvas(np.array([[3.0, 5.0, 31.0, 37.0]]), placement)[0].tolist()
    assert placement.to_source(y1, x1) == pytest.approx((5, 3), abs=0.01)
    assert placement.to_source(y2, x2) == pytest.approx((37, 31), abs=0.01)


def test_boxes_move_as_their_canvas_does() -> None:
    boxes = target((8, 10, 24, 26), (40, 2, 60, 12))
    assert torch.allclose(moved(boxes, STAYS, (64, 64))["boxes"], boxes["boxes"], atol=1e-4)
    mirrored = moved(boxes, MIRRORED, (64, 64))["boxes"]
    assert mirrored[0].tolist() == pytest.approx([40, 10, 56, 26], abs=1e-3)
    # The new canvas shows the middle half of the old one: twice as large.
    closer = moved(boxes, STAYS / 2, (64, 64))
    assert closer["boxes"].tolist()[0] == pytest.approx([0, 0, 16, 20], abs=1e-3)
    assert closer["labels"].tolist() == [1]  # the other one is outside


@given(
    st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(0.7, 1.4), st.booleans(), st.booleans()
)
def test_a_moved_box_is_where_its_pixels_went(
    x: float, y: float, scale: float, flip_x: bool, flip_y: bool
) -> None:
    move = torch.tensor([[scale * (-1) ** flip_x, 0, x], [0, scale * (-1) ** flip_y, y]])
    canvas = torch.zeros(1, 1, 64, 64)
    canvas[..., 24:40, 20:44] = 1
    grid = torch.nn.functional.affine_grid(move[None], [1, 1, 64, 64], align_corners=False)
    rows, columns = torch.nonzero(
        torch.nn.functional.grid_sample(canvas, grid, "nearest", align_corners=False)[0, 0],
        as_tuple=True,
    )
    boxes = moved(target((20, 24, 44, 40)), move, (64, 64))["boxes"]
    if len(boxes):
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert boxes[0].tolist() == pytest.approx([float(v) for v in seen], abs=1.01)


def test_the_loss_takes_the_moved_boxes_and_an_image_without_any() -> None:
    pixels, targets = scene()
    truths = [BoxTruth(boxes_of(Answer(PLAIN)), row) for row in targets]
    batch = LabelledBatch(
        pixels.flip(3), truths, MIRRORED.expand(2, 2, 3), np.random.default_rng(0)
    )
    network = detector().train()
    loss = TASK.loss(network, batch)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()
    assert network.encoder.embed.weight.grad is not None


def test_figures_are_coco_s_with_and_without_kinds(tmp_path: Path) -> None:
    task, kinds = TASK, ("open", "spur")
    image = sample(tmp_path, "defect", "1 1 9 9 spur\n20 20 40 40 open\n")
    truth = task.truth(image, PLAIN, kinds)
    boxes = (Box((1, 1, 8, 8), "spur", 0.9), Box((20, 20, 20, 20), "spur", 0.8))
    figures = task.figures([Answer(PLAIN, boxes=boxes)], [truth], kinds)
    assert figures["AP50"] == figures["AP"] == 0.5
    assert figures["AP50_any_kind"] == figures["AR_any_kind"] == 1
    assert figures["AP50_by_kind"] == {"open": 0, "spur": 1}
    good = task.truth(sample(tmp_path, "good"), PLAIN, kinds)
    assert task.figures([Answer(PLAIN)], [good], kinds) == {}
