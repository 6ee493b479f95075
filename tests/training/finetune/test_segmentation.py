from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.segmenter import IGNORED
from supervised.types import Answer
from tests.supervised.test_segmenter import KINDS, scene, segmenter
from training.errors import DataError
from training.finetune.batch import LabelledBatch
from training.finetune.config import LossConfig
from training.finetune.segmentation import SegmentationTraining, moved, overlap_figures
from training.samples import Sample

STAYS = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
MIRRORED = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
PLAIN = Placement.filling(64)
TASK = SegmentationTraining(LossConfig())


def sample(root: Path, kind: str, mask: np.ndarray | None = None) -> Sample:
    path = root / "ground_truth" / kind / "a_mask.png"
    if mask is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask)
    return Sample(
        root / "test" / kind / "a.png", kind, "test", "a", mask=None if mask is None else path
    )


def marked(size: tuple[int, int] = (64, 64)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2, : size[1] // 4] = 255
    return mask


def test_kinds_are_labels_and_every_defect_must_be_marked(tmp_path: Path) -> None:
    samples = [
        sample(tmp_path, "scratch", marked()),
        sample(tmp_path, "dent", marked()),
        sample(tmp_path, "good"),
    ]
    assert TASK.classes(samples) == KINDS
    with pytest.raises(DataError, match="no mask"):
        TASK.classes([*samples, sample(tmp_path, "crack")])
    with pytest.raises(DataError, match="none of 1 images"):
        TASK.classes(samples[2:])


def test_a_truth_lies_on_the_canvas_and_around_the_image_nothing_is_known(tmp_path: Path) -> None:
    placement = Placement((100, 200), (64, 64), (16, 0, 48, 64))
    truth = TASK.truth(sample(tmp_path, "scratch", marked((100, 200))), placement, KINDS)
    assert truth.dtype == torch.uint8
    assert (truth[:16] == IGNORED).all()
    assert (truth[48:] == IGNORED).all()
    assert (truth[16:32, :16] == 2).all()
    assert truth[16:48].sum() == 2 * 16 * 16
    good = TASK.truth(sample(tmp_path, "good"), placement, KINDS)
    assert not good[16:48].any()


def test_a_mask_of_another_size_and_an_untrained_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of one size"):
        TASK.truth(sample(tmp_path, "dent", marked((32, 32))), PLAIN, KINDS)
    with pytest.raises(DataError, match="which no training image has"):
        TASK.truth(sample(tmp_path, "crack", marked()), PLAIN, KINDS)


def test_values_that_are_no_class_are_refused_before_the_first_step() -> None:
    task, network = TASK, segmenter()
    task.prepare(network, [torch.tensor([[0, 2, IGNORED]])])
    with pytest.raises(ConfigError, match="the value 3"):
        task.prepare(network, [torch.tensor([[0, 3]])])


def test_masks_move_as_their_canvas_does() -> None:
    classes = torch.zeros(2, 8, 8, dtype=torch.uint8)
    classes[:, 1:3, 0:4] = 254
    classes[:, 7] = IGNORED
    assert torch.equal(moved(classes, STAYS.expand(2, 2, 3)), classes.long())
    assert torch.equal(moved(classes, MIRRORED.expand(2, 2, 3)), classes.flip(2).long())
    aside = moved(classes, torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]] * 2))  # by 2 of 8 columns
    assert torch.equal(aside[:, :, :6], classes[:, :, 2:].long())
    assert (aside[:, :, 6:] == IGNORED).all()


def test_the_loss_takes_the_moved_masks() -> None:
    pixels, classes = scene()
    truths = list(classes.to(torch.uint8))
    network = segmenter().eval()
    plain = LabelledBatch(pixels, truths, STAYS.expand(2, 2, 3), np.random.default_rng(0))
    expected = sum(v.item() for v in network.losses(pixels, classes).values())
    assert TASK.loss(network, plain).item() == pytest.approx(expected)
    flipped = LabelledBatch(pixels.flip(3), truths, MIRRORED.expand(2, 2, 3), plain.generator)
    expected = sum(
        float(v.detach()) for v in network.losses(pixels.flip(3), classes.flip(2)).values()
    )
    assert TASK.loss(network, flipped).item() == pytest.approx(expected)


def test_overlaps_of_a_hand_made_case() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[0], truth[1, :2], truth[3] = 1, 2, IGNORED
    answer = np.zeros((4, 4), np.uint8)
    answer[0, :2], answer[1, :2], answer[2, :2], answer[3] = 1, 1, 2, 2
    figures = overlap_figures([answer], [truth], KINDS)
    # Kind 1: 2 common of 4 marked and 2 more; kind 2: none of 2 and 2; any: 4 of 6 and 2 more.
    assert figures == {
        "mean_iou": pytest.approx(1 / 6),
        "any_iou": pytest.approx(0.5),
        "iou_by_kind": {"dent": pytest.approx(1 / 3), "scratch": 0.0},
    }


def test_the_task_s_figures_are_those_of_its_answers() -> None:
    truth = torch.zeros(8, 8, dtype=torch.uint8)
    truth[:4] = 1
    answer = Answer(Placement.filling(8), mask=truth.numpy())
    figures = TASK.figures([answer], [truth], KINDS)
    assert figures == {"mean_iou": 1.0, "any_iou": 1.0, "iou_by_kind": {"dent": 1.0}}
    good = torch.zeros(8, 8, dtype=torch.uint8)
    assert TASK.figures([answer], [good], KINDS) == {}
