"""Runs side by side: the settings that differ, the figures, and a plot of the losses."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from anomaly.bundle import load_bundle
from anomaly.errors import OutputRefused
from training.checkpoint import write_whole
from training.errors import DataError
from training.outputs import check_own_file

_MARK = "Maskline: losses"  # in a picture's metadata: it marks our own pictures
_MARKED = {"png": "Software", "svg": "Creator", "pdf": "Creator"}
_CARD = ("images", "steps", "seconds", "device", "processes", "final_loss")


@dataclass(frozen=True, slots=True)
class Run:
    """A training: its log and, once it has ended, its model's card and calibration."""

    name: str
    log: tuple[dict[str, Any], ...]
    recipe: Mapping[str, Any]
    figures: Mapping[str, Any]


def read_run(path: Path) -> Run:
    """Read a run from its model folder, or from the `.run` folder beside it. Raises `DataError`."""
    folder = path if path.suffix == ".run" else path.with_name(f"{path.name}.run")
    model = folder.with_suffix("")
    log = folder / "log.jsonl"
    if not log.is_file():
        raise DataError(
            f"no run at {path}: {log} is missing; give a model folder that was trained here"
        )
    rows = tuple(json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    if not (model / "manifest.json").is_file():
        return Run(model.name, rows, {}, {})
    bundle = load_bundle(model, check_golden=False, with_graph=False)
    card = bundle.card["training"]
    figures = {name: card[name] for name in _CARD if name in card}
    if bundle.calibration is not None:
        figures["synthetic AUROC"] = bundle.calibration.synthetic_auroc
    if rows:
        figures |= {name: rows[-1].get(name) for name in ("images_per_s", "matrix_share")}
    return Run(model.name, rows, flat(card["recipe"]), figures)


def table(runs: Sequence[Run]) -> str:
    """Lay out figures and the settings that differ, a column for each run."""
    lines = ["| | " + " | ".join(run.name for run in runs) + " |", "|---" * (len(runs) + 1) + "|"]
    figures = dict.fromkeys(key for run in runs for key in run.figures)
    lines += [_line(name, [run.figures.get(name) for run in runs]) for name in figures]
    settings = sorted({key for run in runs for key in run.recipe})
    recipe_values = {name: [run.recipe.get(name) for run in runs] for name in settings}
    differing = {
        name: values
        for name, values in recipe_values.items()
        if any(v != values[0] for v in values)
    }
    lines += [_line(name, values) for name, values in differing.items()]
    return "\n".join(lines)


def draw(runs: Sequence[Run], out: Path) -> None:
    """Plot the losses over the steps; the suffix chooses the format (.png, .svg, .pdf)."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        axes.plot([r["step"] for r in run.log], [r["loss"] for r in run.log], label=run.name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.legend()
    drawn = io.BytesIO()
    kind = _kind(out)
    figure.savefig(drawn, format=kind, metadata={_MARKED[kind]: _MARK})
    write_whole(out, drawn.getvalue())


def check_picture(out: Path) -> None:
    """Raise `OutputRefused` for a name of no picture, or a picture that `draw` did not write."""
    _kind(out)
    check_own_file(out, lambda ends: _MARK.encode() in ends)


def _kind(out: Path) -> str:
    kind = out.suffix[1:].lower()
    if kind not in _MARKED:
        raise OutputRefused(f"{out} is no .png, .svg or .pdf; losses are drawn to one of these")
    return kind


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into `a.b.c` keys."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flattened |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flattened


def _line(name: str, values: Sequence[Any]) -> str:
    return f"| {name} | " + " | ".join(_cell(value) for value in values) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
