"""The detail head's training: what it learns from, what it learns, and when it is silenced."""

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.detector import Detector
from anomaly.model import AnomalyModel
from anomaly.preprocess import content_seed, preprocess
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted, samples, with_detail
from training.config import TrainConfig, load_recipe, without_detail
from training.detail import _Cutter, _Damage, fit_detail
from training.errors import RecipeError
from training.loop import train
from training.progress import QUIET


def test_it_learns_which_pixels_are_altered(sharp_bundle: Bundle) -> None:
    model = sharp_bundle.model
    images = [RgbImage(planted(normal_pixels(700 + i), 40 + 8 * i, 40, 8)) for i in range(5)]
    pixels, placements = preprocess(images, model.config.preprocess)
    cells = torch.ones(model.target.map_grid.rows, model.target.map_grid.cols, dtype=torch.bool)
    evidence = model(pixels, [content_seed(canvas) for canvas in pixels]).mean
    shares = [model.altered_share(p, e, cells) for p, e in zip(pixels, evidence, strict=True)]
    truth = np.zeros((5, 64, 64), bool)
    for i, placement in enumerate(placements):
        scale_y, scale_x = placement.scale
        rows = slice(round(32 / scale_y), round(48 / scale_y))
        truth[i, rows, round((32 + 8 * i) / scale_x) : round((48 + 8 * i) / scale_x)] = True
    assert average_precision_score(truth.ravel(), torch.stack(shares).flatten()) > 0.5  # .02 blind


def test_it_is_the_same_by_seed_and_leaves_the_rest_of_the_model_alone(
    tiny_bundle: Bundle, tiny_config: TrainConfig, tiny_data: Path
) -> None:
    states, config = [], replace(tiny_config, detail=replace(tiny_config.detail, steps=20))
    for _ in range(2):
        model = with_detail(tiny_bundle.model)
        fit_detail(model, samples(tiny_data / "train/good"), config, progress=QUIET)
        states.append(model.state_dict())
    for name, tensor in tiny_bundle.model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        if not name.startswith("detail."):
            assert torch.equal(states[0][name], tensor), name


def test_a_training_ends_with_it_and_the_model_keeps_it(
    tiny_bundle: Bundle, tiny_config: TrainConfig, tiny_data: Path, tmp_path: Path
) -> None:
    scoring = replace(tiny_config.model.scoring, detail_width=4)
    config = replace(tiny_config, model=replace(tiny_config.model, scoring=scoring))
    model, _ = train(samples(tiny_data / "train/good"), config, tmp_path / "run", progress=QUIET)
    for name, tensor in tiny_bundle.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name  # the rest is as without it
    assert model.detail is not None
    assert bool(model.detail.to_pixels.weight.any())
    save_bundle(replace(tiny_bundle, model=model), tmp_path / "sharp", "v1")
    reread = load_bundle(tmp_path / "sharp")
    assert reread.calibration is not None
    bad = RgbImage(planted(normal_pixels(300), 64, 48, 12))
    [before] = Detector(model, reread.calibration).detect([bad])
    [after] = Detector(reread.model, reread.calibration).detect([bad])
    assert before.detail is not None
    assert after.detail is not None
    np.testing.assert_array_equal(before.detail, after.detail)
    assert before.regions == after.regions


@pytest.mark.parametrize("learning_rate", [1e-12, 1e30])
def test_a_head_that_learns_nothing_is_silenced(
    tiny_bundle: Bundle,
    tiny_config: TrainConfig,
    tiny_data: Path,
    learning_rate: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = with_detail(tiny_bundle.model)
    config = replace(
        tiny_config, detail=replace(tiny_config.detail, learning_rate=learning_rate, steps=3)
    )
    with caplog.at_level(logging.WARNING):
        fit_detail(model, samples(tiny_data / "train/good"), config, progress=QUIET)
    assert "learned nothing" in caplog.text
    assert model.detail is not None
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.detail.state_dict().values())
    assert not bool(model.detail.to_pixels.weight.any())


def test_nothing_happens_without_a_head(
    tiny_bundle: Bundle, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AnomalyModel.empty(without_detail(tiny_config).model)
    assert model.detail is None
    fit_detail(model, [], tiny_config, progress=QUIET)


def test_crops_show_the_same_place_in_pixels_evidence_and_truth(tiny_bundle: Bundle) -> None:
    grid = tiny_bundle.model.target.map_grid
    side = grid.rows * grid.patch
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixels = torch.stack([rows, columns, rows]) / 255
    cells = torch.arange(grid.length).float().expand(3, -1)
    share = torch.zeros(side, side)
    share[40:44, 20:24] = 1
    cut = _Cutter(tiny_bundle.model, 24, np.random.default_rng(0))
    on_defect = 0
    for _ in range(40):
        cropped, evidence, truth = cut(pixels, cells, share)
        top, left = int(cropped[0, 0, 0]), int(cropped[1, 0, 0])
        assert cropped.shape == (3, 24, 24)
        assert evidence.shape == (3, 24 // grid.patch, 24 // grid.patch)
        assert int(evidence[0, 0, 0]) == top // grid.patch * grid.cols + left // grid.patch
        torch.testing.assert_close(truth, share[top : top + 24, left : left + 24])
        on_defect += bool(truth.any())
    assert on_defect > 25


def test_a_larger_canvas_carries_more_defects_of_the_same_size(tiny_config: TrainConfig) -> None:
    image = RgbImage(normal_pixels(1, (900, 900)))
    counts, extents = [], []
    for canvas in (224, 896):
        preprocessing = replace(tiny_config.model.preprocess, canvas=canvas)
        damage = _Damage(preprocessing, np.random.default_rng(4))
        masks = [damage(image)[1].astype(np.uint8) for _ in range(4)]
        boxes = [box for m in masks for box in cv2.connectedComponentsWithStats(m)[2][1:]]
        counts.append(len(boxes))
        extents.append(max(max(box[2:4]) for box in boxes) * canvas / 900)
    assert counts[1] > 6 * counts[0]
    assert extents[1] < 448  # two that touch, at the most


def test_images_of_other_sizes_and_shapes_are_damaged(tiny_config: TrainConfig) -> None:
    preprocessing = replace(tiny_config.model.preprocess, canvas=448)
    damage = _Damage(preprocessing, np.random.default_rng(0))
    for size in ((40, 900), (900, 40), (1, 3), (640, 480)):
        image = RgbImage(normal_pixels(1, size))
        before = image.pixels.copy()
        copy, mask = damage(image)
        assert copy.size == mask.shape == size
        assert mask.any()
        np.testing.assert_array_equal(image.pixels, before)


def test_settings_that_make_no_sense_are_refused() -> None:
    for override in ("detail.copies=0", "detail.batch_size=1", "detail.steps=0", "detail.crop=0"):
        with pytest.raises(RecipeError, match="detail wants"):
            load_recipe("default", [override])
    for rate in ("nan", "inf", "0", "-0.1"):
        with pytest.raises(RecipeError, match="learning_rate"):
            load_recipe("default", [f"detail.learning_rate={rate}"])
