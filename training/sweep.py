"""Tries a recipe's declared ranges with Optuna; only normals and synthetic defects decide.

A recipe declares what may vary in its `[sweep]` table: a list is a choice, `{low, high, log}` a
range. Every trial is a training and a calibration; what counts is how well the calibrated score
tells corrupted copies of the validation normals from the normals. The test split is not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import TrainConfig, load_recipe, load_sweep
from training.data import Dataset
from training.errors import DataError, RecipeError, TrainingError
from training.outputs import SWEEP, claim
from training.pipeline import USUAL_TRAINING, Training, check_enough, train_model
from training.progress import SHOWN, Progress

_STUDY = "maskline"


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial: its number, its synthetic AUROC, and its settings as overrides."""

    number: int
    value: float
    overrides: tuple[str, ...]


def sweep(
    dataset: Dataset,
    out: Path,
    recipe: str,
    overrides: tuple[str, ...] = (),
    *,
    trials: int,
    progress: Progress = SHOWN,
) -> Best:
    """Run trials into `out`/trial-N, the study into `out`/study.db; a second call adds to it.

    Raises `RecipeError` where the recipe declares nothing to vary or Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError("a sweep needs Optuna: pip install 'maskline[tracking]'") from error
    ranges = load_sweep(recipe)
    check_enough(dataset, USUAL_TRAINING)
    claim(out, SWEEP)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=_STUDY,
        storage=f"sqlite:///{out / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
    )
    # Seeded by what has been tried: a second call would otherwise draw the first one's values
    # again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))

    def tried(trial: Any) -> float:
        drawn = draw(trial, ranges)
        config = load_recipe(recipe, (*overrides, *drawn))
        value = attempt(dataset, out / f"trial-{trial.number}", config, progress=progress)
        trial.set_user_attr("overrides", drawn)
        return value

    study.optimize(
        tried, n_trials=trials, catch=(TrainingError,), show_progress_bar=progress.is_shown
    )
    finished = [t for t in study.trials if t.state.name == "COMPLETE"]
    if not finished:
        raise DataError(f"none of the {len(study.trials)} trials ended well; see the log above")
    best = study.best_trial
    return Best(best.number, best.value or 0.0, tuple(best.user_attrs["overrides"]))


def attempt(dataset: Dataset, folder: Path, config: TrainConfig, *, progress: Progress) -> float:
    """Train and calibrate; returns the AUROC on synthetic defects."""
    bundle = train_model(dataset, folder, config, Training(), progress=progress)
    auroc = None if bundle.calibration is None else bundle.calibration.synthetic_auroc
    if auroc is None:
        raise DataError("too few validation images for synthetic defects to be tried on")
    return auroc


def draw(trial: Any, ranges: Mapping[str, Any]) -> list[str]:
    """Let Optuna choose a value in each range; returns overrides of the recipe."""
    drawn = []
    for name, declared in ranges.items():
        match declared:
            case list():
                # A list inside the choices, such as stages, is not a value Optuna can hold.
                index = trial.suggest_categorical(name, list(range(len(declared))))
                drawn.append(f"{name}={toml(declared[index])}")
            case {"low": int(low), "high": int(high), **rest}:
                value = trial.suggest_int(name, low, high, log=bool(rest.get("log", False)))
                drawn.append(f"{name}={value}")
            case {"low": low, "high": high, **rest}:
                number = trial.suggest_float(name, low, high, log=bool(rest.get("log", False)))
                drawn.append(f"{name}={number!r}")
            case _:
                raise RecipeError(
                    f"sweep.{name} is {declared!r}; want a list of choices or {{low, high}}"
                )
    return drawn


def toml(value: Any) -> str:
    """Write a value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
    return repr(value)
