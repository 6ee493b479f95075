"""What a new version would change before it serves: cases people judged, and the latest results.

A confirmed defect that would pass forbids the version, and so does one that was kept and cannot be
judged now; one of which nothing was ever kept is counted, and said. Evidence is judged again where
the weights are the same; otherwise the kept image is inspected by the new version, at low priority.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from anomaly.errors import ImageError
from anomaly.types import Verdict, verdict_of
from record.result import Defect, Result
from service.concurrency import Count, all_in_turns, uncounted
from service.errors import CasesMissing, DefectsWouldPass
from service.evidence import StoredEvidence, errors_of
from service.feedback import is_held_against
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.results.recording import Recording
from service.schemas.calibration import ReviewOut

_log = logging.getLogger(__name__)
_CHUNK = 200
_MOST_INSPECTED = 100  # latest results whose images are inspected anew: that costs the device


@dataclass(frozen=True, slots=True)
class Judged:
    """A stored result, and the score and verdict that a version would give."""

    result: Result
    score: float
    verdict: Verdict

    @property
    def verdict_before(self) -> str:
        """The calibration's own verdict: what a request asked for is no change."""
        return self.result.calibrated_verdict or self.result.verdict

    @property
    def is_to_reject(self) -> bool:
        """Whether it passed and would be NG."""
        return self.verdict_before != "NG" and self.verdict == "NG"

    @property
    def is_to_pass(self) -> bool:
        """Whether it was NG and would pass."""
        return self.verdict_before == "NG" and self.verdict != "NG"


@dataclass(frozen=True, slots=True)
class JudgedDefect:
    """A confirmed or missed defect, a version's score and verdict on it; None where it is gone."""

    defect: Defect
    verdict: Verdict | None
    score: float | None = None

    @property
    def result_id(self) -> str:
        """The result's id."""
        return self.defect.result.result_id

    @property
    def must_be_rejected(self) -> bool:
        """Whether a version that lets it pass is refused."""
        return is_held_against(self.defect.result, self.defect.kind)


@dataclass(frozen=True, slots=True)
class Cases:
    """Results that somebody called a defect: judged again, gone, or never kept."""

    judged: Sequence[JudgedDefect]
    missing: Sequence[JudgedDefect]
    not_kept: Sequence[JudgedDefect]

    def where(self, fits: Callable[[JudgedDefect], bool]) -> "Cases":
        """Return those that fit."""
        parts = (self.judged, self.missing, self.not_kept)
        return Cases(*([case for case in part if fits(case)] for part in parts))

    @property
    def scores(self) -> list[float]:
        """Scores of those that were judged."""
        return [case.score for case in self.judged if case.score is not None]

    @property
    def passing(self) -> list[str]:
        """Ids of those that would be OK."""
        return [case.result_id for case in self.judged if case.verdict == "OK"]

    @property
    def missing_ids(self) -> list[str]:
        """Ids of those that are gone."""
        return [case.result_id for case in self.missing]

    @property
    def kept(self) -> int:
        """How many there are that a version is held against."""
        return len(self.judged) + len(self.missing)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a version makes of the cases and of the latest results."""

    defects: Cases
    missed: Cases
    latest: Sequence[Judged]
    last_kinds: Mapping[str, str] = field(default_factory=dict)  # said of the latest, by id

    @property
    def review(self) -> ReviewOut:
        """In figures."""
        defects, missed = self.defects, self.missed
        to_reject = sum(judged.is_to_reject for judged in self.latest)
        to_pass = sum(judged.is_to_pass for judged in self.latest)
        changed = f"{to_reject + to_pass} of {len(self.latest):,} stored results would change."
        return ReviewOut(
            defects=len(defects.judged),
            defects_passing=defects.passing,
            defects_missing=defects.missing_ids,
            defects_not_kept=len(defects.not_kept),
            missed=len(missed.judged),
            missed_not_judged=len(missed.missing) + len(missed.not_kept),
            missed_found=len(missed.judged) - len(missed.passing),
            compared=len(self.latest),
            to_reject=to_reject,
            to_pass=to_pass,
            messages=[changed, *_sentences(defects, missed)],
        )


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Judges stored results by a version that does not serve yet."""

    inspector: Inspector
    recording: Recording
    results: int

    async def check(self, candidate: ServedModel) -> None:
        """Raise `DefectsWouldPass` unless every confirmed defect is still rejected.

        Raises `CasesMissing` where one cannot be judged. A defect that is confirmed meanwhile is
        judged, too.
        """
        checked: set[str] = set()
        last = -1
        reader = self.recording.reader
        while last != (now := await reader.last_feedback()):
            last = now
            new = [
                defect
                for defect in await reader.defects(candidate.name)
                if is_held_against(defect.result, defect.kind)
                and defect.result.result_id not in checked
            ]
            _refuse(candidate, await self._judge_cases(candidate, new))
            checked |= {defect.result.result_id for defect in new}

    async def review(self, candidate: ServedModel) -> ReviewOut:
        """Judge all cases and the latest kept results of a model."""
        reader = self.recording.reader
        cases = await self._judge_cases(candidate, await reader.defects(candidate.name))
        latest = await reader.kept_latest(candidate.name, self.results)
        return (await self._outlook(candidate, cases, latest)).review

    async def preview(self, candidate: ServedModel, camera: str | None, limit: int) -> Outlook:
        """Judge what one camera's calibration would judge: its cases and its latest kept results.

        Without a camera: those of all cameras without their own calibration.
        """
        reader, detector = self.recording.reader, candidate.detector
        calibration = detector.calibration_of(camera)

        def is_judged_by_it(result: Result) -> bool:
            return detector.calibration_of(result.camera) is calibration

        defects = [
            defect
            for defect in await reader.defects(candidate.name)
            if is_judged_by_it(defect.result)
        ]
        latest = await reader.kept_latest(candidate.name, limit, camera)
        outlook = await self._outlook(
            candidate,
            await self._judge_cases(candidate, defects),
            [result for result in latest if is_judged_by_it(result)],
        )
        ids = [judged.result.result_id for judged in outlook.latest]
        return replace(outlook, last_kinds=await reader.last_kinds(ids))

    async def _outlook(
        self, candidate: ServedModel, cases: Cases, latest: Sequence[Result]
    ) -> Outlook:
        return Outlook(
            cases.where(lambda case: case.must_be_rejected),
            cases.where(lambda case: not case.must_be_rejected),
            await self._judge(candidate, latest, most_inspected=_MOST_INSPECTED),
        )

    async def _judge_cases(self, candidate: ServedModel, defects: Sequence[Defect]) -> Cases:
        """Judge all of these, however many: one that is left out might be the one that passes."""
        kept = [defect.result for defect in defects if defect.result.kept]
        judged = await self._judge(candidate, kept, most_inspected=len(kept))
        by_id = {item.result.result_id: item for item in judged}
        cases = [_case(defect, by_id.get(defect.result.result_id)) for defect in defects]
        return Cases(
            [case for case in cases if case.verdict is not None],
            [case for case in cases if case.verdict is None and case.defect.result.kept],
            [case for case in cases if not case.defect.result.kept],
        )

    async def _judge(
        self, candidate: ServedModel, results: Sequence[Result], *, most_inspected: int
    ) -> list[Judged]:
        """Judge results as far as something is kept of them."""
        judged: list[Judged] = []
        inspections_left = most_inspected
        for start in range(0, len(results), _CHUNK):
            chunk = results[start : start + _CHUNK]
            gathered = await gather(
                self.inspector, self.recording, candidate, chunk, most_inspected=inspections_left
            )
            inspections_left -= sum(item.inspected for item in gathered)
            judged += judge_again(candidate, gathered)
        return judged


def _case(defect: Defect, judged: Judged | None) -> JudgedDefect:
    if judged is None:
        return JudgedDefect(defect, None)
    return JudgedDefect(defect, judged.verdict, judged.score)


def _refuse(candidate: ServedModel, defects: Cases) -> None:
    """Raise what keeps a version out."""
    version = f"version {candidate.bundle.version} of {candidate.name!r}"
    if passing := defects.passing:
        raise DefectsWouldPass(
            f"{version} would pass {len(passing)} of {defects.kept} confirmed defects "
            f"({', '.join(passing[:5])}); an admin may force it with a reason"
        )
    if missing := defects.missing_ids:
        raise CasesMissing(
            f"{version} cannot be held against {len(missing)} of {defects.kept} confirmed defects "
            f"({', '.join(missing[:5])}): their images are gone, or cannot be read; bring them "
            "back from a backup, or let an admin force it with a reason"
        )


def _sentences(defects: Cases, missed: Cases) -> list[str]:
    messages = []
    if defects.judged or missed.judged:
        rejected = len(missed.judged) - len(missed.passing)
        messages.append(
            f"{len(defects.passing)} of {len(defects.judged)} confirmed defects would pass; "
            f"{rejected} of {len(missed.judged)} missed ones would be found."
        )
    if defects.missing:
        messages.append(
            f"WARNING: {len(defects.missing)} confirmed defects cannot be judged, their images are "
            "gone; this version will not be activated unless an admin forces it."
        )
    if defects.not_kept:
        messages.append(
            f"{len(defects.not_kept)} confirmed defects were never kept: nothing can be said "
            "of them."
        )
    return messages


@dataclass(frozen=True, slots=True)
class Stored:
    """A result with evidence that a version's own weights gathered, perhaps just now."""

    result: Result
    evidence: StoredEvidence
    inspected: bool


async def gather(
    inspector: Inspector,
    recording: Recording,
    model: ServedModel,
    results: Sequence[Result],
    *,
    most_inspected: int,
    counted: Count = uncounted,
) -> list[Stored]:
    """Return the evidence on results; `counted` is told of those inspected anew.

    Where it is another model's, or gone, the first images are inspected anew. Left out are results
    of which neither evidence nor a readable image is there.
    """
    with_evidence: list[Stored] = []
    without_evidence: list[Result] = []
    for result, evidence in zip(results, await recording.evidence(results), strict=True):
        if evidence is not None and evidence.weights == model.bundle.weights:
            with_evidence.append(Stored(result, evidence, inspected=False))
        else:
            without_evidence.append(result)
    inspected = await all_in_turns(
        [
            partial(_inspected, inspector, recording, model, result)
            for result in without_evidence[:most_inspected]
        ],
        counted,
    )
    return with_evidence + [item for item in inspected if item is not None]


async def _inspected(
    inspector: Inspector, recording: Recording, model: ServedModel, result: Result
) -> Stored | None:
    image = await recording.image(result)
    if image is None:
        return None
    try:
        inspection = await inspector.inspect_unrecorded(image, model, result.camera)
    except ImageError as error:
        _log.warning("the image of result %s cannot be read: %s", result.result_id, error)
        return None
    return Stored(result, inspection.evidence(), inspected=True)


def judge_again(model: ServedModel, stored: Sequence[Stored]) -> list[Judged]:
    """Judge evidence by a version's calibrations, each camera's by its own."""
    by_camera: dict[str | None, list[Stored]] = {}
    for item in stored:
        by_camera.setdefault(item.result.camera, []).append(item)
    judged = []
    grid, names = model.bundle.model.target.map_grid, model.bundle.model.names
    for camera, camera_items in by_camera.items():
        calibration = model.detector.calibration_of(camera)
        errors = errors_of([item.evidence for item in camera_items], names)
        roi_masks = [calibration.roi_mask(item.evidence.placement, grid) for item in camera_items]
        masks = [item for item in roi_masks if item is not None]
        scores = calibration.image_scores(errors, grid, torch.stack(masks) if masks else None)
        threshold, warn_threshold = calibration.threshold, calibration.warn_threshold
        judged += [
            Judged(item.result, score, verdict_of(score, threshold, warn_threshold))
            for item, score in zip(camera_items, scores.tolist(), strict=True)
        ]
    return judged
