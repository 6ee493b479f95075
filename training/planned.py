"""What a run has planned, kept beside its checkpoint: resumed, it goes on with the same canvas.

Planning takes minutes, and milliseconds measured anew could decide for another canvas, which the
checkpoint does not fit.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.checkpoint import fingerprint, write_whole
from training.config import TrainConfig
from training.index import identity
from training.plan import plan, with_canvas
from training.progress import Progress
from training.samples import Sample

PLAN_FILE = "plan.json"


def planned(
    samples: Sequence[Sample],
    config: TrainConfig,
    run_folder: Path,
    *,
    resume: bool,
    progress: Progress,
) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the recipe with its canvas, and what the plan says of it for the model's card.

    A plan of the same recipe and images is taken up again where the run is resumed. Raises
    `RecipeError` as `plan` does.
    """
    mark, file = fingerprint(config, identity(samples)), run_folder / PLAN_FILE
    if resume and (card := _stored(file, mark)) is not None:
        return with_canvas(config, card["canvas"], card["bands"]), card
    decided = plan(samples, config, progress=progress)
    run_folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"mark": mark, "plan": decided.as_dict()}, indent=2).encode())
    return decided.config, decided.as_dict()


def _stored(file: Path, mark: str) -> dict[str, Any] | None:
    """Read what the run planned; None where there is nothing for this recipe and these images."""
    try:
        content = json.loads(file.read_bytes())
        card: dict[str, Any] = content["plan"]
        layout = (card["canvas"], card["bands"])
        fits = content["mark"] == mark and all(isinstance(number, int) for number in layout)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if fits else None
