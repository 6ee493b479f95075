"""The whole job on drawn parts: generate, train, calibrate, evaluate. Serving is the caller's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from training.config import TrainConfig
from training.data import open_dataset
from training.outputs import DEMO, check_own_folder, claim
from training.pipeline import evaluate_model, train_model
from training.progress import SHOWN, Progress
from training.synthetic import PartsConfig, write_parts

MODEL = "flange"


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo made."""

    bundle: Bundle
    parts: Path
    models: Path
    report: Path
    figures: dict[str, Any]
    example: Path


def run_demo(
    folder: Path,
    config: TrainConfig,
    parts: PartsConfig,
    *,
    say: Callable[[str], None],
    progress: Progress = SHOWN,
) -> Demo:
    """Run the main job in `folder`; `say` gets one line before each stage."""
    check_own_folder(folder, DEMO, ())
    claim(folder, DEMO)
    data, models = folder / "parts", folder / "models"
    say(f"1/4 drawing {parts.total} parts into {data}")
    images = write_parts(data, parts, seed=config.run.seed)
    for _ in progress.each(images, "drawing", total=parts.total, unit="image"):
        pass
    dataset = open_dataset(data)
    say(f"2/4 training on {len(dataset.select('train'))} good parts, 3/4 calibrating on others")
    bundle = train_model(dataset, models / MODEL, config, progress=progress)
    say("4/4 evaluating on parts that neither has seen")
    figures, report = evaluate_model(
        models / MODEL, dataset, report=folder / "report", progress=progress
    )
    example = next(sample for sample in dataset.select("test") if sample.label == "scratch")
    return Demo(bundle, data, models, report or folder, figures, example.path)
