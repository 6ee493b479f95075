"""Strips: cut in bands by the plan, trained on, and answered for in their own pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomaly.calibration import CalibrationSettings
from anomaly.types import RgbImage
from service.app import create_app
from service.settings import Settings
from tests.conftest import png, samples
from training.config import TrainConfig, load_recipe
from training.data import open_dataset
from training.errors import RecipeError
from training.pipeline import Training, train_model
from training.plan import plan, with_bands, with_canvas
from training.planned import planned
from training.progress import QUIET

LENGTH, HEIGHT = 1024, 64


def strip(seed: int) -> np.ndarray:
    """A woven web, (HEIGHT, LENGTH, 3) uint8."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:LENGTH]
    weave = 120 + 25 * np.sin(rows / 3) * np.sin(columns / 3 + generator.uniform(0, 6))
    noisy = weave + generator.normal(0, 4, weave.shape)
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def laid(pixels: np.ndarray, *, is_tall: bool) -> bytes:
    return png(np.ascontiguousarray(pixels.transpose(1, 0, 2)) if is_tall else pixels)


def write_strips(root: Path, *, is_tall: bool = False) -> Path:
    for split, count in (("train", 16), ("validation", 24)):
        (root / split / "good").mkdir(parents=True)
        for index in range(count):
            data = laid(strip(100 * count + index), is_tall=is_tall)
            (root / split / "good" / f"{index:02d}.png").write_bytes(data)
    return root


@pytest.mark.parametrize("is_tall", [False, True])
def test_a_hole_is_found_and_boxed_in_the_strip_s_pixels(
    tiny_config: TrainConfig, tmp_path: Path, *, is_tall: bool
) -> None:
    data = write_strips(tmp_path / "web", is_tall=is_tall)
    config = with_canvas(tiny_config, 256, 4)
    how = Training(calibration=CalibrationSettings(0.05))
    train_model(open_dataset(data), tmp_path / "models/web", config, how, progress=QUIET)
    holed = strip(1)
    holed[20:32, 700:712] = 10
    settings = Settings(models_dir=tmp_path / "models", auth="off", device="cpu", record="off")
    with TestClient(create_app(settings), base_url="http://localhost") as client:

        def ask(pixels: np.ndarray) -> Any:
            return client.post("/score", content=laid(pixels, is_tall=is_tall)).json()

        good, bad = ask(strip(2)), ask(holed)
    assert bad["verdict"] == "NG"
    assert bad["score"] > good["score"]
    x, y, width, height = bad["regions"][0]["bbox"]
    if is_tall:
        x, y, width, height = y, x, height, width
    assert x <= 706 <= x + width
    assert y <= 26 <= y + height
    assert width * height < 20 * 12 * 12
    rows, columns = bad["heatmap"]["height"], bad["heatmap"]["width"]
    assert (rows > columns) == is_tall
    assert max(rows, columns) == 16 * min(rows, columns)


@pytest.mark.parametrize(
    ("size", "overrides", "bands", "canvas"),
    [
        ((64, 1024), (), 4, 256),
        ((1024, 64), (), 4, 256),
        ((64, 160), (), 1, 224),
        ((256, 8192), (), 6, 288),
        ((8, 8192), (), 16, 256),
        ((64, 1024), ("plan.long=0",), 1, 224),
        ((256, 8192), ('model.target.kind="pixels"', "model.target.patch=14"), 6, 672),
        ((64, 1024), ("plan.long=20",), 1, 224),
        ((64, 1024), ("model.preprocess.bands=2",), 2, 224),
    ],
)
def test_long_pictures_are_cut_into_bands_that_make_a_square(
    size: tuple[int, int], overrides: tuple[str, ...], bands: int, canvas: int
) -> None:
    config = with_bands(load_recipe("default", overrides), [RgbImage(np.zeros((*size, 3), "u1"))])
    assert (config.model.preprocess.bands, config.model.preprocess.canvas) == (bands, canvas)


def test_a_recipe_without_a_choice_of_canvases_cuts_strips_as_well(tmp_path: Path) -> None:
    images = samples(write_strips(tmp_path / "web") / "train/good")
    preprocess = plan(images, load_recipe("fast", []), progress=QUIET).config.model.preprocess
    assert (preprocess.bands, preprocess.canvas) == (4, 256)


def test_bands_without_whole_patches_are_refused() -> None:
    with pytest.raises(RecipeError, match="no whole number"):
        load_recipe("default", ["model.preprocess.bands=2", "model.target.patch=20"])


def test_the_plan_of_strips_is_said_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = samples(write_strips(tmp_path / "web") / "train/good")
    config = load_recipe("default", ["plan.canvases=[224]", "run.export=never"])
    with caplog.at_level("INFO"):
        decided = plan(images, config, progress=QUIET)
    assert "16 times as long as wide: each is cut into 4 bands" in caplog.text
    assert decided.as_dict()["bands"] == 4
    first, again = (
        planned(images, config, tmp_path / "run", resume=True, progress=QUIET)[0] for _ in range(2)
    )
    assert first == again == decided.config
