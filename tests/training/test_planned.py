from pathlib import Path
from typing import Any

import pytest

from tests.conftest import samples
from training import planned as planned_module
from training.config import TrainConfig, load_recipe
from training.plan import Plan, with_canvas
from training.planned import PLAN_FILE, planned
from training.progress import QUIET


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Canvases that plans decided for: each is 16 px larger than the one before."""
    canvases: list[int] = []

    def decide(images: Any, config: TrainConfig, *, progress: Any) -> Plan:
        canvases.append(96 + 16 * len(canvases))
        return Plan(with_canvas(config, canvases[-1]), {}, {canvases[-1]: 1.0})

    monkeypatch.setattr(planned_module, "plan", decide)
    return canvases


def canvas_of(run: Path, images: Path, *overrides: str, resume: bool) -> int:
    config = load_recipe("default", overrides)
    decided, card = planned(samples(images), config, run, resume=resume, progress=QUIET)
    assert card["canvas"] == decided.model.preprocess.canvas
    assert card["ms"] == {str(card["canvas"]): 1.0}
    return decided.model.preprocess.canvas


def test_a_resumed_run_keeps_the_canvas_that_it_planned(
    tiny_data: Path, tmp_path: Path, asked: list[int]
) -> None:
    images = tiny_data / "train/good"
    assert canvas_of(tmp_path / "run", images, resume=True) == 96  # nothing to go on with
    assert canvas_of(tmp_path / "run", images, resume=True) == 96
    assert len(asked) == 1
    assert canvas_of(tmp_path / "run", images, resume=False) == 112
    assert canvas_of(tmp_path / "run", images, resume=True) == 112


def test_another_recipe_other_images_and_a_damaged_file_are_planned_anew(
    tiny_data: Path, tmp_path: Path, asked: list[int]
) -> None:
    run, images = tmp_path / "run", tiny_data / "train/good"
    assert canvas_of(run, images, resume=False) == 96
    assert canvas_of(run, images, "run.seed=5", resume=True) == 112
    assert canvas_of(run, tiny_data / "validation/good", "run.seed=5", resume=True) == 128
    for damaged in (b"", b"[]", b'{"mark": "x", "plan": 3}'):
        (run / PLAN_FILE).write_bytes(damaged)
        canvas_of(run, images, resume=True)
    assert len(asked) == 6
