"""Train, calibrate, evaluate: each from paths to a model folder or a report. The commands call these."""

import datetime
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.conformal import check_rate
from anomaly.device import choose_device
from training.calibrate import calibrate_model, with_groups
from training.config import TrainConfig
from training.data import Dataset, Sample, read_images
from training.errors import DataError
from training.evaluate import evaluate, save_figures
from training.export import Exported, export_model
from training.loop import train
from training.plan import plan
from training.pretrained import MaeChoices, import_mae
from training.report import write_report


def train_model(
    dataset: Dataset,
    out: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    false_alarm_rate: float | None = 0.01,
    group_by: str | None = None,
    skip_unreadable: bool = False,
    quiet: bool = False,
) -> Bundle:
    """Train on the set's normal images and save the model to `out`.

    With a `false_alarm_rate` the model is calibrated on the validation split as well; without, it is
    saved uncalibrated and cannot be served yet.
    """
    if false_alarm_rate is not None:
        check_rate(false_alarm_rate)  # before the training, not after it
    samples = readable(_normal(dataset, "train"), skip_unreadable=skip_unreadable)
    config = plan(samples, config, quiet=quiet)
    model, card = train(samples, config, run_folder(out), resume=resume, quiet=quiet)
    bundle = Bundle(out.absolute().name, model, None, {"training": card | _origin(dataset)})
    if false_alarm_rate is not None:
        bundle = _calibrated(
            bundle,
            with_groups(_normal(dataset, "validation"), group_by),
            false_alarm_rate,
            skip_unreadable=skip_unreadable,
            quiet=quiet,
        )
        bundle = with_graph(bundle, config.run.export)
    return save_bundle(bundle, out, new_version())


def with_graph(bundle: Bundle, wish: str) -> Bundle:
    """Add the ONNX graph: `always`, `never`, or `auto`, where this machine serves on a CPU and faster so."""
    if wish == "never" or (wish == "auto" and choose_device("auto").type != "cpu"):
        return replace(bundle, graph=None)
    exported = export_model(bundle.model)
    kept = wish == "always" or exported.is_faster
    return replace(bundle, graph=exported.graph if kept else None)


def export_folder(model: Path) -> tuple[Bundle, Exported]:
    """Export the model in a folder to ONNX, in place, under a new version."""
    bundle = load_bundle(model, with_graph=False)  # it may be what is broken
    exported = export_model(bundle.model)
    return save_bundle(replace(bundle, graph=exported.graph), model, new_version()), exported


def import_model(checkpoint: Path, out: Path, choices: MaeChoices) -> Bundle:
    """Make an uncalibrated model folder of public masked-autoencoder weights."""
    model = import_mae(checkpoint, choices)
    card = {"imported": {"weights": checkpoint.name, "maskline": version("maskline")}}
    return save_bundle(Bundle(out.absolute().name, model, None, card), out, new_version())


def calibrate_folder(
    model: Path,
    normals: list[Sample],
    *,
    false_alarm_rate: float = 0.01,
    skip_unreadable: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> Bundle:
    """Calibrate the model in a folder anew, in place, under a new version."""
    bundle = load_bundle(model, check_golden=False)
    bundle.model.to(choose_device(device))
    calibrated = _calibrated(
        bundle, normals, false_alarm_rate, skip_unreadable=skip_unreadable, quiet=quiet
    )
    return save_bundle(calibrated, model, new_version())


def evaluate_model(
    model: Path,
    dataset: Dataset,
    *,
    json_file: Path | None = None,
    report: Path | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> tuple[dict[str, Any], Path | None]:
    """Evaluate a model folder on a set's test split; returns the figures and the report's path."""
    bundle = load_bundle(model)
    detector = bundle.detector(choose_device(device))
    result = evaluate(
        bundle, detector, dataset.select("test"), skip_unreadable=skip_unreadable, quiet=quiet
    )
    if json_file is not None:
        save_figures(result.figures, json_file)
    path = None
    if report is not None:
        white = bundle.model.config.preprocess.white_level
        path = write_report(
            report, result.figures, result.scores, result.labels, result.shown, white
        )
    return result.figures, path


def run_folder(out: Path) -> Path:
    """Where a run keeps its checkpoint and log, beside the model it makes."""
    return out.absolute().with_name(f"{out.absolute().name}.run")


def new_version() -> str:
    """Return a version that sorts by time."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")


def readable(samples: list[Sample], *, skip_unreadable: bool) -> list[Sample]:
    """Drop what cannot be decoded if that is wished; otherwise the first such file is an error."""
    if not skip_unreadable:
        return samples
    return [sample for sample, _ in read_images(samples, skip_unreadable=True)]


def _normal(dataset: Dataset, split: str) -> list[Sample]:
    samples = [sample for sample in dataset.select(split) if sample.is_normal]
    if not samples:
        raise DataError(f"{dataset.root} has no normal images in its {split} split")
    return samples


def _calibrated(
    bundle: Bundle,
    normals: list[Sample],
    false_alarm_rate: float,
    *,
    skip_unreadable: bool,
    quiet: bool,
) -> Bundle:
    calibration = calibrate_model(
        bundle.model,
        normals,
        false_alarm_rate=false_alarm_rate,
        skip_unreadable=skip_unreadable,
        quiet=quiet,
    )
    card = bundle.card | {"calibration": {"images": len(calibration.images.scores)}}
    return replace(bundle, calibration=calibration, card=card)


def _origin(dataset: Dataset) -> dict[str, Any]:
    sessions = {sample.session for sample in dataset.select("train")}
    return {"data": dataset.root.name, "sessions": len(sessions), "maskline": version("maskline")}
