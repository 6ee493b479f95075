"""Train, calibrate, evaluate: from paths to a model folder or a report. Commands call these."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle, load_bundle, new_version, save_bundle
from anomaly.calibrate import calibrate
from anomaly.calibration import DEFAULT_SETTINGS, Calibration, CalibrationSettings
from anomaly.calibration_report import Comparison, compare
from anomaly.device import choose_device
from anomaly.errors import ModelUncalibrated
from anomaly.roi import read_roi
from anomaly.runtime import detector_of
from training.calibrate import measure
from training.compression import compression_of, with_compressed
from training.config import TrainConfig
from training.crossfit import cross_fitted, fold_count
from training.data import Dataset, Sample, regroup
from training.decoding import STRICT, Decoding
from training.errors import DataError
from training.evaluate import check_test, evaluate, save_figures
from training.export import Exported, export_model
from training.groups import check_groups, with_copies_together
from training.loop import Start, train
from training.plan import with_canvas
from training.planned import planned
from training.pretrained import MaeChoices, import_mae
from training.progress import SHOWN, Progress
from training.report import write_report
from training.samples import printable
from training.seen import candidates, held_out_of, remember_calibration, remember_training, to_test
from training.world import ALONE, World

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recalibration:
    """The settings of a calibration from the command line; `roi` is a file, or `none`."""

    false_alarm_rate: float | None = None
    warn_rate: float | None = None
    roi: Path | None = None
    camera: str | None = None
    threshold: float | None = None  # given by hand; None: the rate says

    def choices(self, before: Calibration | None) -> CalibrationSettings:
        """Read the region; without one the previous region is kept. Raises `RoiInvalid`."""
        if self.roi is None:
            roi = None if before is None else before.roi
        else:
            roi = None if str(self.roi) == "none" else read_roi(self.roi.read_bytes())
        return CalibrationSettings(
            self.false_alarm_rate, self.warn_rate, roi, threshold=self.threshold
        )


@dataclass(frozen=True, slots=True)
class Training:
    """How a training proceeds, beside its recipe.

    With a `calibration` the model is calibrated on the validation split as well; without, it is
    saved uncalibrated and cannot be served yet. `init` is a model to start from: its target and
    autoencoder take the place of the recipe's.
    """

    resume: bool = False
    calibration: CalibrationSettings | None = DEFAULT_SETTINGS
    group_by: str | None = None
    init: Path | None = None
    decoding: Decoding = STRICT


USUAL_TRAINING = Training()


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """The model as it was saved, its new calibration, and how it compares with the previous one."""

    bundle: Bundle
    calibration: Calibration
    before: Comparison | None


def train_model(
    dataset: Dataset,
    out: Path,
    config: TrainConfig,
    how: Training = USUAL_TRAINING,
    *,
    world: World = ALONE,
    progress: Progress = SHOWN,
) -> Bundle:
    """Train on the set's normal images and save the model to `out`.

    Of several processes the first one calibrates and saves.
    """
    dataset = dataset if how.group_by is None else regroup(dataset, how.group_by)
    normals = check_enough(dataset, how)
    samples = readable(_normal(dataset, "train"), decoding=how.decoding)
    folds = 0
    if normals and how.init is None and world.size == 1:
        folds = fold_count([*samples, *normals], config.crossfit)
    if folds:
        samples = normals = with_copies_together(
            [*samples, *readable(normals, decoding=how.decoding)]
        )
    start, earlier, init = None, None, how.init
    if init is not None:
        earlier = load_bundle(init, check_golden=False, with_graph=False)
        normals = held_out_of(earlier, normals, how.group_by) if normals else []
        config, start = adapted(config, earlier)
    plan_card: dict[str, Any] = {}
    if world.is_first:
        config, decided = planned(
            samples, config, run_folder(out), resume=how.resume, progress=progress
        )
        plan_card = {"plan": decided}
    config = with_canvas(config, world.from_first(config.model.preprocess.canvas))
    config = config.bounded(len(samples))
    samples = with_compressed(samples, config.augment.compression, config.run.seed)
    model, card = train(
        samples,
        config,
        run_folder(out),
        world=world,
        start=start,
        resume=how.resume,
        progress=progress,
    )
    origin = _origin(dataset) | ({} if init is None else {"init": init.name})
    bundle = Bundle(out.absolute().name, model, None, {"training": card | plan_card | origin})
    bundle = remember_training(bundle, samples, earlier)
    if not world.is_first:
        return bundle
    if how.calibration is not None:
        copied = with_compressed(normals, config.augment.compression, config.run.seed)
        roi, decoding = how.calibration.roi, how.decoding
        if folds:
            normal_set = cross_fitted(
                copied,
                config,
                run_folder(out),
                folds=folds,
                roi=roi,
                resume=how.resume,
                decoding=decoding,
                progress=progress,
            )
        else:
            normal_set = measure(bundle.model, copied, roi, decoding=decoding, progress=progress)
        calibration = calibrate(normal_set, how.calibration)
        _say_rate(calibration, how.calibration)
        calibrated = bundle.calibrated(calibration)
        bundle = remember_calibration(calibrated, normals)
        bundle = with_graph(bundle, config.run.export)
    return save_bundle(bundle, out, new_version())


def adapted(config: TrainConfig, pretrained: Bundle) -> tuple[TrainConfig, Start]:
    """Return the recipe with a pretrained model's target and autoencoder, and starting weights."""
    pretrained_config, model = pretrained.model.config, pretrained.model
    together = replace(config.model, target=pretrained_config.target, mae=pretrained_config.mae)
    start = Start(model.mae.state_dict(), model.target.mean, model.target.spread)
    return replace(config, model=together), start


def with_graph(bundle: Bundle, wish: str) -> Bundle:
    """Add the ONNX graph: `always`, `never`, or `auto`.

    `auto` adds it where this machine serves on a CPU and is faster with it.
    """
    if wish == "never" or (wish == "auto" and choose_device("auto").type != "cpu"):
        return replace(bundle, graph=None)
    exported = export_model(bundle.model)
    is_worth = wish == "always" or exported.is_faster
    return replace(bundle, graph=exported.graph if is_worth else None)


def export_folder(model: Path) -> tuple[Bundle, Exported]:
    """Export the model in a folder to ONNX, in place, under a new version."""
    bundle = load_bundle(model, with_graph=False)  # the graph may be the broken part
    exported = export_model(bundle.model)
    return save_bundle(replace(bundle, graph=exported.graph), model, new_version()), exported


def import_model(checkpoint: Path, out: Path, choices: MaeChoices) -> Bundle:
    """Make an uncalibrated model folder of public masked-autoencoder weights."""
    model = import_mae(checkpoint, choices)
    card = {"imported": {"weights": checkpoint.name, "maskline": version("maskline")}}
    return save_bundle(Bundle(out.absolute().name, model, None, card), out, new_version())


def calibrate_folder(
    model: Path,
    normals: Sequence[Sample],
    request: Recalibration,
    *,
    group_by: str | None = None,
    decoding: Decoding = STRICT,
    device: str = "auto",
    progress: Progress = SHOWN,
) -> Recalibrated:
    """Calibrate the model in a folder anew, in place, under a new version.

    Images that it was trained on are left out. `group_by` is what the images were grouped by.
    """
    bundle = load_bundle(model, check_golden=False)
    before = bundle.cameras.get(request.camera or "", bundle.calibration)
    if request.camera is not None and bundle.calibration is None:
        raise ModelUncalibrated(
            "calibrate the model for all cameras first (without --camera), then for one of them"
        )
    choices = request.choices(before)  # before the work, not after it
    normals = held_out_of(bundle, with_copies_together(normals), group_by)
    bundle.model.to(choose_device(device))
    copied = with_compressed(normals, compression_of(bundle))
    normal_set = measure(bundle.model, copied, choices.roi, decoding=decoding, progress=progress)
    calibration = calibrate(normal_set, choices)
    _say_rate(calibration, choices)
    same_roi = before is not None and before.roi is choices.roi
    compared = compare(before, normal_set) if before is not None and same_roi else None
    bundle = bundle.calibrated(calibration, request.camera)
    bundle = remember_calibration(bundle, normals, request.camera)
    saved = save_bundle(bundle, model, new_version())
    return Recalibrated(saved, calibration, compared)


def evaluate_model(
    model: Path,
    dataset: Dataset,
    *,
    json_file: Path | None = None,
    report: Path | None = None,
    decoding: Decoding = STRICT,
    device: str = "auto",
    progress: Progress = SHOWN,
) -> tuple[dict[str, Any], Path | None]:
    """Evaluate a model folder on a set's test split; returns the figures and the report's path.

    A set without splits is tested on everything that the model has not seen.
    """
    check_test(candidates(dataset))
    bundle = load_bundle(model)
    samples, seen_before = to_test(bundle, dataset)
    detector = detector_of(bundle, choose_device(device))
    result = evaluate(bundle, detector, samples, decoding=decoding, progress=progress)
    result.figures["test_images_seen_before"] = seen_before
    result.figures["data"] = dataset.listing.as_dict()
    if json_file is not None:
        save_figures(result.figures, json_file)
    path = None
    if report is not None:
        white = bundle.model.config.preprocess.white_level
        path = write_report(
            report,
            result.figures,
            result.scores,
            labels=result.labels,
            pictures=result.pictures,
            white_level=white,
        )
    return result.figures, path


def run_folder(out: Path) -> Path:
    """Where a run keeps its checkpoint and log, beside the model it makes."""
    return out.absolute().with_name(f"{out.absolute().name}.run")


def readable(samples: list[Sample], *, decoding: Decoding) -> list[Sample]:
    """Drop what cannot be decoded if that is wished; otherwise the first such file is an error."""
    if not decoding.skip_unreadable:
        return samples
    return [sample for sample, _ in decoding.images(samples)]


def check_enough(dataset: Dataset, how: Training) -> list[Sample]:
    """Return the calibration images; raises `DataError`, before the work, if they are too few."""
    if len(_normal(dataset, "train")) < 2:
        raise DataError(
            f"{len(dataset.normal('train'))} normal training image(s): too few; a few dozen "
            "are a start"
        )
    if how.calibration is None:
        return []
    normals = dataset.normal("validation")
    try:
        check_groups(normals or dataset.normal("train"), how.group_by)
    except DataError as error:
        if not any(sample.drawn_into for sample in normals):
            raise
        raise DataError(
            "too few images to train and to calibrate on others: a fifth of the independent "
            "parts is held "
            f"out, and {error}. Collect 8 independent parts at the least, or pass --no-calibrate"
        ) from error
    return _normal(dataset, "validation")


def _say_rate(calibration: Calibration, settings: CalibrationSettings) -> None:
    """Say which rate was taken where none was given."""
    if settings.false_alarm_rate is None and settings.threshold is None:
        _log.info(
            "no --false-alarm-rate was given: %.1f %%, as %d independent parts tell it well; 299 "
            "parts tell 1 %% as well",
            100 * calibration.false_alarm_rate,
            calibration.images.groups,
        )


def _normal(dataset: Dataset, split: str) -> list[Sample]:
    samples = dataset.normal(split)
    if not samples:
        raise DataError(
            f"{printable(dataset.root)} has no normal images in its {split} split "
            f"({dataset.listing.summary()})"
        )
    return samples


def _origin(dataset: Dataset) -> dict[str, Any]:
    sessions = {sample.session for sample in dataset.select("train")}
    return {"data": dataset.root.name, "sessions": len(sessions), "maskline": version("maskline")}
