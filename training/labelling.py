"""Masks to a new version of a model: one more family of evidence, and a calibration that knows it.

The good parts of the set's validation split calibrate, as in `maskline calibrate`; those of its
training split teach the head what is normal, where the model was trained on them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from anomaly.bundle import Bundle, load_bundle, new_version, save_bundle
from anomaly.calibrate import calibrate
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.device import choose_device
from anomaly.errors import ModelUncalibrated
from anomaly.explanation import weight_of
from training.calibrate import measure
from training.compression import compression_of, with_compressed
from training.data import calibration_images, listed
from training.decoding import STRICT, Decoding
from training.errors import DataError
from training.groups import check_groups
from training.labelled import (
    FAMILY,
    card_of,
    choose_penalty,
    fit_rule,
    gather_cells,
    labelled_parts,
    teachers,
    with_head,
)
from training.pipeline import with_graph
from training.progress import SHOWN, Progress
from training.samples import Sample, few_of, printable
from training.seen import held_out_of, remember_calibration

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Labelling:
    """Where labels come from and how a set is read.

    `masks` is a folder of labelled defects alone, in any layout that has masks; without it those of
    the set's test split are learned from. `group_by` says what one part is.
    """

    masks: Path | None = None
    group_by: str | None = None
    decoding: Decoding = STRICT
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Labelled:
    """The model as it was saved, how many masks of each kind taught it, and their weight."""

    bundle: Bundle
    masks: Mapping[str, int]
    penalty: float
    weight: float


USUAL_LABELLING = Labelling()


def label_folder(
    model: Path,
    data: Path,
    output: Path | None = None,
    how: Labelling = USUAL_LABELLING,
    *,
    progress: Progress = SHOWN,
) -> Labelled:
    """Teach a calibrated model what was marked, and save it to `output`, or in place.

    Raises `DataError` with fewer than five masks, and what `calibrate_folder` raises.
    """
    bundle = load_bundle(model, check_golden=False)
    if bundle.calibration is None:
        raise ModelUncalibrated(
            "labels are one more family of evidence beside those that are calibrated: calibrate "
            f"the model first, 'maskline calibrate {model} NORMALS'"
        )
    dataset = listed(data)
    marked = labelled_parts(dataset, how.masks, how.group_by)
    normals = held_out_of(bundle, calibration_images(data, how.group_by).samples, how.group_by)
    normals = _without_parts(normals, marked, how.group_by)
    bundle.model.to(choose_device(how.device))
    cells = gather_cells(
        bundle.model, marked, teachers(bundle, dataset), decoding=how.decoding, progress=progress
    )
    rule = fit_rule(cells, choose_penalty(cells))
    enlarged = with_head(bundle.model, rule)
    before = bundle.calibration
    settings = CalibrationSettings(before.false_alarm_rate, before.warn_rate, before.roi)
    if before.given is not None:
        _log.warning(
            "the threshold %.4g was set by hand for scores without labels: the false-alarm rate "
            "of %.2f %% decides it now",
            before.given,
            100 * before.false_alarm_rate,
        )
    copied = with_compressed(normals, compression_of(bundle))
    normal_set = measure(enlarged, copied, settings.roi, decoding=how.decoding, progress=progress)
    calibration = calibrate(normal_set, settings)
    weight = weight_of(FAMILY, enlarged.names, calibration.weights)
    if weight == 0:
        _log.warning(
            "whatever their weight, the labels would hide defects that resemble none of them: they "
            "count for nothing. Mark more parts, or check the masks"
        )
    labelled = replace(
        bundle,
        model=enlarged,
        cameras=_cameras(bundle, enlarged.names),
        card=bundle.card | {FAMILY: card_of(marked, rule, weight)},
    )
    labelled = remember_calibration(labelled.calibrated(calibration), normals)
    labelled = with_graph(labelled, "never" if bundle.graph is None else "always")
    saved = save_bundle(labelled, output or model, new_version())
    return Labelled(saved, saved.card[FAMILY]["masks"], rule.penalty, weight)


def _without_parts(
    normals: Sequence[Sample], marked: Sequence[Sample], group_by: str | None
) -> list[Sample]:
    """Leave out good pictures of parts that taught the head: they would flatter the threshold."""
    parts = {sample.session for sample in marked}
    shared = [sample for sample in normals if sample.session in parts]
    if not shared:
        return list(normals)
    _log.warning(
        "left out: %d good pictures of parts that are labelled as defective (%s)",
        len(shared),
        few_of([printable(sample.name) for sample in shared]),
    )
    remaining = [sample for sample in normals if sample.session not in parts]
    if not remaining:
        raise DataError(
            "every good part to calibrate on is also labelled as defective; collect other ones"
        )
    check_groups(remaining, group_by)
    return remaining


def _cameras(bundle: Bundle, names: tuple[str, ...]) -> dict[str, Calibration]:
    """Calibrations of cameras, in which labels count for nothing until they are calibrated anew.

    What counted earlier labels cannot stay: its scores would be others.
    """
    cameras = {}
    for camera, calibration in bundle.cameras.items():
        if weight_of(FAMILY, bundle.model.names, calibration.weights) > 0:
            _log.warning(
                "the calibration of camera %r rests on earlier labels and is gone, the one for all "
                "judges its parts; give it its own by 'maskline calibrate --camera'",
                camera,
            )
            continue
        cameras[camera] = silent(calibration, len(names))
        _log.warning(
            "labels do not count for camera %r yet: 'maskline calibrate --camera' weighs them",
            camera,
        )
    return cameras


def silent(calibration: Calibration, kinds: int) -> Calibration:
    """Return the same calibration for a model with one more kind of evidence, of weight 0."""
    more = kinds - len(calibration.weights)
    if more == 0:
        return calibration
    normalisers = tuple(
        replace(
            normaliser,
            mean=torch.cat([normaliser.mean, torch.zeros(more, normaliser.mean.shape[1])]),
            spread=torch.cat([normaliser.spread, torch.ones(more, normaliser.spread.shape[1])]),
        )
        for normaliser in calibration.normalisers
    )
    weights = torch.cat([calibration.weights, torch.zeros(more)])
    return replace(calibration, normalisers=normalisers, weights=weights)
