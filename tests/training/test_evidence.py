from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.preprocess import PreprocessConfig, preprocess
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted, samples
from training.config import TrainConfig, load_recipe
from training.evidence import altered_cells
from training.plan import plan, separation
from training.progress import QUIET


def test_the_repair_head_and_the_memory_see_a_planted_defect(tiny_bundle: Bundle) -> None:
    images = [RgbImage(normal_pixels(300)), RgbImage(planted(normal_pixels(300), 64, 48, 12))]
    pixels, _ = preprocess(images, tiny_bundle.model.config.preprocess)
    found = tiny_bundle.model(pixels, [1, 1])
    for family in ("memory", "repair"):
        kind = found.names.index(f"{family}.pixels")
        normal, defect = found.mean[:, kind].amax(dim=1).tolist()
        assert defect > normal


def test_altered_cells_lie_where_the_image_s_mask_does(tiny_bundle: Bundle) -> None:
    mask = np.zeros((96, 128), bool)
    mask[:, 64:] = True
    mask[:24] = False
    [share] = altered_cells(tiny_bundle.model, [mask])  # stretched to 8 × 8 cells
    assert share.shape == (8, 8)
    assert float(share[2:, 4:].min()) == 1
    assert float(share[:2].max()) == float(share[:, :4].max()) == 0


def speckled(tmp_path: Path, side: int, count: int = 16) -> Path:
    """Fine random stripes: what is drawn into them is lost when they are shrunk."""
    import cv2

    tmp_path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        shift = np.random.default_rng(index).integers(8)
        line = (np.arange(side) + shift) // 4 % 2 * 200 + 20
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), np.tile(line, (side, 1)).astype(np.uint8))
    return tmp_path


def recipe(*canvases: int) -> TrainConfig:
    config = load_recipe("default", ["model.target.stages=[1, 2]"])
    return replace(config, plan=replace(config.plan, canvases=canvases, images=16, gain=0.05))


@pytest.mark.slow
def test_a_larger_canvas_is_taken_only_where_it_tells_more(tmp_path: Path) -> None:
    normals = samples(speckled(tmp_path, 256))
    decided = plan(normals, recipe(64, 256, 512), progress=QUIET)
    assert decided.model.preprocess.canvas in (64, 256)  # 512 px would be invented
    aurocs = {
        canvas: separation(
            [RgbImage(np.repeat(_grey(s.path)[..., None], 3, 2)) for s in normals],
            replace(
                decided,
                model=replace(decided.model, preprocess=PreprocessConfig(canvas=canvas)),
            ),
        )
        for canvas in (64, 256)
    }
    assert (decided.model.preprocess.canvas == 256) == (aurocs[256] > aurocs[64] + 0.05)


def test_small_images_get_the_smallest_canvas_without_a_trial(tmp_path: Path) -> None:
    decided = plan(samples(speckled(tmp_path, 64)), recipe(64, 256), progress=QUIET)
    assert decided.model.preprocess.canvas == 64


def test_without_candidates_the_recipe_is_left_alone(tiny_config: TrainConfig) -> None:
    assert plan([], tiny_config) is tiny_config


def _grey(path: Path) -> np.ndarray:
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    return grey


def test_evidence_of_one_seed_is_reproducible(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.model.memory is not None
    bank = tiny_bundle.model.memory.banks[0]
    assert bool(torch.isfinite(bank).all())
    assert float(bank.std()) > 0.1
