import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.types import RgbImage
from tests.conftest import samples
from training import plan as plan_module
from training.config import TrainConfig, load_recipe
from training.decoding import STRICT
from training.errors import RecipeError
from training.export import inspection_ms
from training.loop import new_model
from training.plan import plan, with_canvas
from training.progress import QUIET
from training.separation import KINDS, Separation, gain, separation, with_defects


def speckled(tmp_path: Path, side: int, count: int = 16) -> Path:
    """Fine random stripes: what is drawn into them is lost when they are shrunk."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        shift = np.random.default_rng(index).integers(8)
        line = (np.arange(side) + shift) // 4 % 2 * 200 + 20
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), np.tile(line, (side, 1)).astype(np.uint8))
    return tmp_path


def recipe(*canvases: int, gain: float = 0.03, max_ms: float = 0.0) -> TrainConfig:
    config = load_recipe("default", ["model.target.stages=[1, 2]", "run.export=never"])
    planned = replace(config.plan, canvases=canvases, images=16, gain=gain, max_ms=max_ms)
    return replace(config, plan=planned)


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speckled(tmp_path_factory.mktemp("speckled"), 256)


@pytest.fixture(scope="module")
def images(normals: Path) -> list[RgbImage]:
    return [image for _, image in STRICT.images(samples(normals))]


@pytest.mark.slow
def test_a_larger_canvas_is_taken_only_where_it_tells_more(
    normals: Path, images: list[RgbImage]
) -> None:
    config = recipe(64, 256, 512)
    decided = plan(samples(normals), config, progress=QUIET)
    assert decided.canvas in (64, 256)  # 512 px would be invented
    order = np.random.default_rng((config.run.seed, 7)).permutation(len(images))
    planned = [images[i] for i in order]
    small, large = (
        separation(planned, with_defects(planned, config.run.seed), with_canvas(config, canvas))
        for canvas in (64, 256)
    )
    mean, spread = gain(large, small)
    assert (decided.canvas == 256) == (mean > max(0.03 * 4, spread))


def separated(local: float, diffuse: float, count: int = 100) -> Separation:
    """Let so many copies of each kind score above all normal images, and the rest above none."""
    rank = np.arange(count)[None, None, :, None] < count * np.array([local, diffuse]).reshape(
        2, 1, 1, 1
    )
    wins = rank * np.ones((2, 1, count, count))
    return Separation((wins, wins))


def pretend(monkeypatch: pytest.MonkeyPatch, recalls: dict[int, tuple[float, float]]) -> None:
    """Let each canvas have these recalls on local and on diffuse defects."""

    def pretended(images: object, drawn: object, config: TrainConfig) -> Separation:
        return separated(*recalls[config.model.preprocess.canvas])

    monkeypatch.setattr(plan_module, "separation", pretended)


@pytest.mark.parametrize(
    ("large", "chosen"), [((0.79, 0.79), 256), ((0.77, 0.77), 64), ((0.9, 0.7), 256)]
)
def test_a_larger_canvas_must_bring_its_price(
    normals: Path, monkeypatch: pytest.MonkeyPatch, large: tuple[float, float], chosen: int
) -> None:
    pretend(monkeypatch, {64: (0.7, 0.7), 256: large})
    # 256 px have four doublings more pixels than 64 px: the price is .08.
    decided = plan(samples(normals), recipe(64, 256, 512, gain=0.02), progress=QUIET)
    assert set(decided.tried) == {64, 256}  # 512 px would be invented
    assert decided.canvas == chosen


def test_a_gain_comes_with_its_spread() -> None:
    mean, spread = gain(separated(0.6, 0.5), separated(0.5, 0.5))
    assert mean == pytest.approx(0.05)
    assert 0.005 < spread < 0.05
    _, of_few = gain(separated(0.6, 0.5, count=10), separated(0.5, 0.5, count=10))
    assert of_few > 2 * spread


def test_small_images_get_the_smallest_canvas_without_a_trial(tmp_path: Path) -> None:
    decided = plan(samples(speckled(tmp_path, 64)), recipe(64, 256), progress=QUIET)
    assert decided.canvas == 64
    assert not decided.tried
    assert decided.favourites == {}


def test_without_candidates_the_recipe_is_left_alone(tiny_config: TrainConfig) -> None:
    assert plan([], tiny_config).config is tiny_config


def test_a_canvas_that_takes_too_long_is_not_tried(
    normals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretended(model: object, *, with_graph: bool) -> float:
        assert not with_graph  # run.export=never
        return 2.0 if model.config.preprocess.canvas == 64 else 40.0  # type: ignore[attr-defined]

    monkeypatch.setattr(plan_module, "inspection_ms", pretended)
    decided = plan(samples(normals), recipe(64, 256, max_ms=10), progress=QUIET)
    assert decided.canvas == 64
    assert decided.as_dict() == {
        "canvas": 64,
        "bands": 1,
        "synthetic_recall": {},
        "ms": {"64": 2.0, "256": 40.0},
    }
    with pytest.raises(RecipeError, match="an image takes 2 ms on this machine at 64 px"):
        plan(samples(normals), recipe(64, 256, max_ms=1), progress=QUIET)


def test_a_recipe_of_one_canvas_is_held_to_the_limit_too(tiny_config: TrainConfig) -> None:
    slow = replace(tiny_config, plan=replace(tiny_config.plan, canvases=(), max_ms=1e-6))
    with pytest.raises(RecipeError, match="at 64 px, more than --max-ms"):
        plan([], slow, progress=QUIET)


@pytest.mark.parametrize("with_graph", [False, True])
def test_the_time_of_an_untrained_network_is_measured(
    tiny_config: TrainConfig, *, with_graph: bool
) -> None:
    small, large = (
        inspection_ms(new_model(with_canvas(tiny_config, side)), with_graph=with_graph)
        for side in (64, 256)
    )
    assert 0 < small < large


def test_where_kinds_of_defects_disagree_it_is_said(
    normals: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, {64: (0.6, 0.8), 256: (0.8, 0.6)})
    with caplog.at_level(logging.INFO):
        decided = plan(samples(normals), recipe(64, 256), progress=QUIET)
    assert decided.canvas == 64  # on the mean they are level, and the smaller one is cheaper
    assert decided.favourites == {"local": 256, "diffuse": 64}
    assert "the kinds of defects disagree (256 px for local, 64 px for diffuse)" in caplog.text


def test_the_same_canvas_gains_nothing_over_itself(images: list[RgbImage]) -> None:
    found = separation(images, with_defects(images, 0), with_canvas(recipe(64), 64))
    assert gain(found, found) == (0.0, 0.0)
    assert set(found.recalls) == set(KINDS)
    assert min(found.recalls.values()) > 0.5  # whatever disturbs such stripes is seen
    assert all(0 <= recall <= 1 for recall in found.recalls.values())
    assert found.mean == pytest.approx(np.mean(list(found.recalls.values())))
    assert found.drawn(np.random.default_rng(0)).mean == pytest.approx(found.mean, abs=0.4)
