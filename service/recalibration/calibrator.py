"""Recalibrates a serving model from stored results or uploaded images, without retraining."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from anomaly.bundle import new_version
from anomaly.calibrate import recalibrate
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.calibration_report import CalibrationReport, compare, state
from anomaly.cost import Cost, Stakes, costs
from anomaly.encoding import Encoding
from anomaly.errors import CalibrationError, ImageError
from anomaly.normal_set import NormalSet
from anomaly.roi import Roi
from anomaly.tradeoff import TradeOff, at_threshold, trade_off
from record.result import JsonObject
from record.store import Filter
from service.concurrency import Count, all_in_turns, uncounted
from service.errors import NormalsMissing, NothingRecorded
from service.evidence import StoredEvidence, errors_of
from service.inference.served_model import ServedModel, Slot
from service.inspector import Inspector
from service.recalibration.reviewer import Outlook, Reviewer, gather
from service.results.recording import Recording
from service.schemas.calibration import GroupBy, ReviewOut

_MIN_NORMALS = 20
_FITTED_ON = 500  # newest kept normal parts that a preview is fitted on
_WIDER = (
    "The region of interest reaches further than before: parts that passed were not judged by what "
    "lies in the rest, nobody looked there. Make sure that they are good there, too."
)


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """What a new calibration is to be; `roi` is kept as it is unless `changes_roi`.

    A `threshold` set by hand is not kept: scores of another calibration lie elsewhere.
    """

    false_alarm_rate: float | None
    warn_rate: float | None
    camera: str | None
    roi: Roi | None = None
    changes_roi: bool = False
    threshold: float | None = None

    def choices(self, before: Calibration) -> CalibrationSettings:
        """Fill up from the calibration before. Raises `CalibrationError`."""
        rate, warn = self.false_alarm_rate, self.warn_rate
        return CalibrationSettings(
            before.false_alarm_rate if rate is None else rate,
            before.warn_rate if warn is None else warn,
            self.roi if self.changes_roi else before.roi,
            self.threshold,
        )

    def applied_to(self, before: Calibration) -> Calibration:
        """Return the calibration before with another threshold, its region as it is."""
        if self.threshold is not None:
            return at_threshold(before, self.threshold)
        return before if self.false_alarm_rate is None else before.at_rate(self.false_alarm_rate)


@dataclass(frozen=True, slots=True)
class Normals:
    """Evidence on normal parts, and what counts as one independent group."""

    evidence: tuple[StoredEvidence, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A staged calibration: what it promises, and what it would change.

    `normals` is 0 where only the threshold moved.
    """

    slot: Slot
    version: str
    normals: int
    statement: CalibrationReport
    review: ReviewOut | None


@dataclass(frozen=True, slots=True)
class Preview:
    """A calibration that nobody saved: what it promises, and what it would change.

    `normals` is how many kept parts it was fitted on; None where only its threshold is another.
    """

    calibration: Calibration
    statement: CalibrationReport
    trade_off: TradeOff
    normals: int | None
    outlook: Outlook | None
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Calibrates a model that serves; the new version is staged, not activated."""

    inspector: Inspector
    recording: Recording | None
    reviewer: Reviewer | None

    async def from_results(
        self,
        recording: Recording,
        model: ServedModel,
        which: Filter,
        *,
        limit: int,
        group_by: GroupBy,
        counted: Count = uncounted,
    ) -> Normals:
        """Gather the newest stored results that count as normal (`Store.kept_normals`)."""
        of_model = replace(which, model=model.name)
        results = await recording.reader.kept_normals(of_model, limit, model.thresholds)
        stored = await gather(
            self.inspector, recording, model, results, most_inspected=limit, counted=counted
        )
        groups = [str(getattr(item.result, group_by) or item.result.result_id) for item in stored]
        return Normals(tuple(item.evidence for item in stored), tuple(groups))

    async def from_images(
        self,
        model: ServedModel,
        images: Sequence[tuple[str, bytes]],
        camera: str | None,
        *,
        counted: Count = uncounted,
    ) -> Normals:
        """Inspect uploaded images at low priority; those in one folder are one group.

        Raises `ImageError` naming the first that cannot be read.
        """
        evidence = await all_in_turns(
            [partial(self._look, name, data, model, camera) for name, data in images], counted
        )
        groups = [
            name.rpartition("/")[0] or f"#{number}" for number, (name, _) in enumerate(images)
        ]
        return Normals(tuple(evidence), tuple(groups))

    async def calibrate(
        self, model: ServedModel, normals: Normals, request: CalibrationRequest
    ) -> Calibrated:
        """Fit, save and stage a calibration, and say what it would change.

        Raises `NormalsMissing`, `CalibrationError`, or what `Registry.recalibrate` raises.
        """
        _check_enough(normals)
        before = model.detector.calibration_of(request.camera)
        choices = request.choices(before)
        calibration, statement = await asyncio.to_thread(_fit, model, before, normals, choices)
        return await self._staged(
            model, request.camera, calibration, statement, normals=len(normals.groups)
        )

    async def move(self, model: ServedModel, request: CalibrationRequest) -> Calibrated:
        """Save and stage the serving calibration with another threshold or rate, as previewed.

        Raises `CalibrationError`, also where more than that is asked for.
        """
        asked_for = (request.threshold, request.false_alarm_rate)
        if asked_for == (None, None) or request.changes_roi or request.warn_rate is not None:
            raise CalibrationError(
                "without other parts only the threshold or the false_alarm_rate can be another; a "
                "region or a warn_rate needs results or images to calibrate on"
            )
        before = model.detector.calibration_of(request.camera)
        calibration = request.applied_to(before)
        statement = await asyncio.to_thread(state, calibration)
        return await self._staged(model, request.camera, calibration, statement, normals=0)

    async def _staged(
        self,
        model: ServedModel,
        camera: str | None,
        calibration: Calibration,
        statement: CalibrationReport,
        *,
        normals: int,
    ) -> Calibrated:
        version = new_version()
        bundle = replace(model.bundle.calibrated(calibration, camera), version=version)
        slot = await self.inspector.engine.registry.recalibrate(
            model.name, model, bundle, **_details(calibration, camera, normals)
        )
        review = None
        if self.reviewer is not None and slot.staged is not None:
            review = await self.reviewer.review(slot.staged)
        return Calibrated(slot, version, normals, statement, review)

    async def preview(
        self,
        model: ServedModel,
        request: CalibrationRequest,
        limit: int,
        *,
        stakes: Stakes | None = None,
    ) -> Preview:
        """Say what another threshold or region would do; nothing is saved or staged.

        Another region is fitted on kept normal parts. Raises `NothingRecorded`, `NormalsMissing`
        or `CalibrationError`.
        """
        camera = request.camera
        before = model.detector.calibration_of(camera)
        if request.changes_roi:
            normals = await self._kept_normals(model, camera)
            choices = request.choices(before)
            calibration, statement = await asyncio.to_thread(_fit, model, before, normals, choices)
            fitted_on = len(normals.groups)
        else:
            calibration = request.applied_to(before)
            statement = await asyncio.to_thread(state, calibration)
            fitted_on = None
        outlook = None
        if self.reviewer is not None:
            candidate = replace(
                model,
                bundle=model.bundle.calibrated(calibration, camera),
                detector=model.detector.with_calibration(calibration, camera),
            )
            outlook = await self.reviewer.preview(candidate, camera, limit)
        defects = None if outlook is None else outlook.defects.scores
        point = await asyncio.to_thread(trade_off, calibration, defects)
        priced: tuple[Cost, ...] = ()
        if stakes is not None:
            scores = [] if outlook is None else [*outlook.defects.scores, *outlook.missed.scores]
            priced = await asyncio.to_thread(costs, calibration, stakes, scores)
        return Preview(calibration, statement, point, fitted_on, outlook, priced)

    async def _kept_normals(self, model: ServedModel, camera: str | None) -> Normals:
        if self.recording is None:
            raise NothingRecorded(
                "this service keeps no results (MASKLINE_RECORD=off): a threshold for another "
                "region needs kept normal parts"
            )
        normals = await self.from_results(
            self.recording, model, Filter(camera=camera), limit=_FITTED_ON, group_by="result_id"
        )
        _check_enough(normals)
        return normals

    async def _look(
        self, name: str, data: bytes, model: ServedModel, camera: str | None
    ) -> StoredEvidence:
        try:
            return (await self.inspector.inspect_unrecorded(data, model, camera)).evidence()
        except ImageError as error:
            raise type(error)(f"{name}: {error}") from error


def _check_enough(normals: Normals) -> None:
    if len(normals.groups) < _MIN_NORMALS:
        raise NormalsMissing(
            f"{len(normals.groups)} normal parts to calibrate on; {_MIN_NORMALS} are the "
            "least that make "
            "sense. Keep more images (MASKLINE_KEEP), name other results, or send images"
        )


def _fit(
    model: ServedModel, before: Calibration, normals: Normals, choices: CalibrationSettings
) -> tuple[Calibration, CalibrationReport]:
    grid = model.bundle.model.target.map_grid

    def roi_mask(roi: Roi | None) -> torch.Tensor | None:
        if roi is None:
            return None
        return torch.stack([roi.mask(item.placement, grid) for item in normals.evidence])

    normal_set = NormalSet(
        errors_of(normals.evidence, model.bundle.model.names),
        normals.groups,
        grid,
        roi_mask=roi_mask(choices.roi),
        inputs=np.stack([item.inputs for item in normals.evidence]),
        encodings=_encodings(normals.evidence),
    )
    calibration = recalibrate(before, normal_set, choices)
    compared = compare(before, replace(normal_set, roi_mask=roi_mask(before.roi)))
    statement = state(calibration, compared)
    if before.roi is not None and (choices.roi is None or choices.roi.reaches_beyond(before.roi)):
        statement = replace(statement, messages=(*statement.messages, _WIDER))
    return calibration, statement


def _encodings(evidence: Sequence[StoredEvidence]) -> tuple[Encoding, ...]:
    """How the images came; nothing where one was stored by a version that did not keep it."""
    encodings = tuple(item.encoding for item in evidence if item.encoding is not None)
    return encodings if len(encodings) == len(evidence) else ()


def _details(calibration: Calibration, camera: str | None, normals: int) -> JsonObject:
    """What the audit trail keeps of a calibration."""
    return {
        "camera": camera,
        "normals": normals,
        "threshold": calibration.threshold,
        "mode": calibration.mode,
        "false_alarm_rate": calibration.false_alarm_rate,
        "warn_rate": calibration.warn_rate,
        "roi_share": None if calibration.roi is None else calibration.roi.share,
    }
