from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maskline import app
from tests.conftest import TINY
from training.config import load_recipe, load_sweep
from training.data import Dataset, open_dataset
from training.errors import DataError, RecipeError
from training.progress import QUIET
from training.sweep import draw, sweep, toml

optuna = pytest.importorskip("optuna")

RECIPE = """
[sweep]
"optimiser.learning_rate" = { low = 1e-3, high = 1e-2, log = true }
"model.mae.depth" = { low = 1, high = 2 }
"objective.masks" = ["random", "block"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "ranges.toml"
    path.write_text(RECIPE)
    return str(path)


def test_trials_are_kept_and_added_to(
    tiny_data: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Dataset, split: str) -> Any:
        assert split != "test"
        return chosen(self, split)

    chosen = Dataset.select
    monkeypatch.setattr(Dataset, "select", never)
    dataset, out = open_dataset(tiny_data), tmp_path / "study"
    short = (*TINY, "optimiser.steps=4")
    first = sweep(dataset, out, recipe, short, trials=2, progress=QUIET)
    best = sweep(dataset, out, recipe, short, trials=1, progress=QUIET)
    assert best.value >= first.value > 0.4
    assert {p.name for p in out.iterdir()} >= {"study.db", "trial-0", "trial-1", "trial-2"}
    tried = {trial.params["optimiser.learning_rate"] for trial in trials_of(out)}
    assert len(tried) == 3
    config = load_recipe(recipe, (*short, *best.overrides))
    assert 1e-3 <= config.optimiser.learning_rate <= 1e-2
    assert config.model.mae.depth in (1, 2)
    assert config.objective.masks in ("random", "block")


def trials_of(out: Path) -> list[Any]:
    study = optuna.load_study(study_name="maskline", storage=f"sqlite:///{out / 'study.db'}")
    found: list[Any] = study.trials
    return found


def test_the_command_says_how_to_have_the_best_again(
    tiny_data: Path, tmp_path: Path, recipe: str
) -> None:
    told = [f"--set={s}" for s in (*TINY, "optimiser.steps=3")]
    command = ["sweep", str(tiny_data), "--recipe", recipe, "--trials", "1", *told]
    answer = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "study")])
    assert answer.exit_code == 0, answer.output
    assert "best: trial 0, synthetic AUROC 0." in answer.output
    assert "--set 'optimiser.learning_rate=" in answer.output


def test_a_recipe_without_ranges_and_a_range_that_is_none_are_refused(
    tiny_data: Path, tmp_path: Path, recipe: str
) -> None:
    with pytest.raises(RecipeError, match="declares nothing to vary"):
        load_sweep("default")
    with pytest.raises(RecipeError, match="want a list of choices"):
        draw(None, {"optimiser.steps": 7})
    with pytest.raises(DataError, match="none of the 1 trials"):
        sweep(
            open_dataset(tiny_data),
            tmp_path / "study",
            recipe,
            (*TINY, "optimiser.batch_size=0"),
            trials=1,
            progress=QUIET,
        )


def test_values_are_written_as_toml() -> None:
    assert toml([1, "a", True, [0.5]]) == '[1, "a", true, [0.5]]'
    assert load_recipe("sweep").optimiser.steps == 600
