"""The recipes of boxes and masks at small size: from a folder of images to figures on a test."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.supervised.test_pyramid import encoder
from training.config import finetune_names
from training.finetune.config import FinetuneConfig, load_finetune
from training.finetune.data import LabelledSet
from training.finetune.pipeline import from_nothing, gather, scratch_of, train_network
from training.finetune.report import summary
from training.progress import QUIET
from training.samples import Sample

SMALL = (
    "canvas=64",
    "head.channels=16",
    "optimiser.epochs=3",
    "optimiser.warmup_epochs=1",
    "optimiser.least_steps=6",
    "optimiser.batch_size=4",
    "run.device=cpu",
    "run.threads=1",
)
BOXES = (*SMALL, "head.head_width=32", "head.proposals=32")


def drawn(root: Path, kind: str, index: int) -> Sample:
    """Grey, with a dark square where the part is dented; its mask and its box beside."""
    pixels, mask = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), np.uint8)
    x, y = 8 + 3 * index, 20 + 2 * index
    if kind != "good":
        pixels[y : y + 16, x : x + 16], mask[y : y + 16, x : x + 16] = 0, 255
    for folder in ("test", "ground_truth", "boxes"):
        (root / folder / kind).mkdir(parents=True, exist_ok=True)
    path = root / "test" / kind / f"{index}.png"
    cv2.imwrite(str(path), pixels)
    if kind == "good":
        return Sample(path, kind, "train", path.name, name=path.name)
    truth = root / "ground_truth" / kind / f"{index}_mask.png"
    cv2.imwrite(str(truth), mask)
    (root / "boxes" / kind / f"{index}.txt").write_text(f"{x} {y} {x + 16} {y + 16} {kind}\n")
    return Sample(path, kind, "train", path.name, mask=truth, name=path.name)


def labelled(root: Path) -> LabelledSet:
    samples = [drawn(root, kind, i) for kind in ("dent", "good") for i in range(3)]
    return LabelledSet(root, tuple(samples), tuple(samples[::2]))


@pytest.mark.parametrize(
    ("recipe", "overrides", "figure"),
    [("finetune-boxes", BOXES, "AP50"), ("finetune-masks", SMALL, "mean_iou")],
)
def test_a_recipe_trains_and_is_tested_beside_scratch(
    tmp_path: Path, recipe: str, overrides: tuple[str, ...], figure: str
) -> None:
    config, start = load_finetune(recipe, overrides), encoder()
    material = gather(labelled(tmp_path), start, config, QUIET)
    assert material.classes == ("dent",)
    scratch = scratch_of(config)
    assert scratch.head == config.head
    tuned = train_network(start, material, config, QUIET)
    beside = train_network(from_nothing(start, scratch), material, scratch, QUIET)
    assert tuned.figures is not None
    assert 0 <= tuned.figures[figure] <= 1
    card = {"test": tuned.figures, "beside": {"scratch": {"test": beside.figures}}}
    assert "any kind" in summary(card)


@pytest.mark.parametrize("recipe", ["finetune-boxes", "finetune-masks"])
def test_a_frozen_encoder_is_held_against_the_same_head_from_nothing(recipe: str) -> None:
    config = load_finetune(recipe, ["tune.train=head", "head.channels=16"])
    scratch = scratch_of(config)
    assert (scratch.task, scratch.head, scratch.tune.train) == (config.task, config.head, "all")


@pytest.mark.parametrize("name", ["finetune-boxes", "finetune-masks"])
def test_the_recipes_are_listed_and_train_all_of_the_encoder(name: str) -> None:
    config = load_finetune(name)
    assert isinstance(config, FinetuneConfig)
    assert name in finetune_names()
    assert config.tune.train == "all"
    assert config.canvas % 32 == 0
