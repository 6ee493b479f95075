"""What a new version would change, before it serves: cases that people judged, and the latest results.

A confirmed defect that would pass forbids the version, and so does one that was kept and cannot be
judged now; one of which nothing was ever kept is counted, and said. Evidence is judged again where
the weights are the same; otherwise the kept image is inspected by the new version, at low priority.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from anomaly.errors import ImageError
from anomaly.scoring import Evidence
from anomaly.types import Verdict
from service.concurrency import all_in_turns
from service.errors import CasesMissing, DefectsWouldPass
from service.feedback import is_held_against
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.results.evidence import StoredEvidence, placement_of, weights_of
from service.results.recording import Recording
from service.schemas import ReviewOut

_log = logging.getLogger(__name__)
Row = dict[str, Any]
_CHUNK = 200
_MOST_INSPECTED = 100  # latest results whose images are inspected anew: that costs the device


@dataclass(frozen=True, slots=True)
class Judged:
    """A stored result and the verdict that a version would give."""

    row: Row
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Cases:
    """Results that somebody called a defect: judged again, gone, or never kept."""

    judged: Sequence[Judged]
    missing: Sequence[Row]
    not_kept: Sequence[Row]

    def where(self, fits: Callable[[Row], bool]) -> "Cases":
        """Return those that fit."""
        return Cases(
            [item for item in self.judged if fits(item.row)],
            [row for row in self.missing if fits(row)],
            [row for row in self.not_kept if fits(row)],
        )

    @property
    def passing(self) -> list[str]:
        """Ids of those that would be OK."""
        return [item.row["result_id"] for item in self.judged if item.verdict == "OK"]

    @property
    def missing_ids(self) -> list[str]:
        """Ids of those that are gone."""
        return [row["result_id"] for row in self.missing]

    @property
    def kept(self) -> int:
        """How many there are that a version is held against."""
        return len(self.judged) + len(self.missing)


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
        while last != (now := await self.recording.last_feedback()):
            last = now
            rows = await self.recording.defects(candidate.name)
            new = [
                row for row in rows if _must_be_rejected(row) and row["result_id"] not in checked
            ]
            _refuse(candidate, await self._judge_cases(candidate, new))
            checked |= {row["result_id"] for row in new}

    async def review(self, candidate: ServedModel) -> ReviewOut:
        """Judge all cases and the latest kept results of a model."""
        rows = await self.recording.defects(candidate.name)
        cases = await self._judge_cases(candidate, rows)
        latest = await self.recording.kept_latest(candidate.name, self.results)
        stored = await self._judge(candidate, latest, most_inspected=_MOST_INSPECTED)
        defects = cases.where(_must_be_rejected)
        missed = cases.where(lambda row: not _must_be_rejected(row))
        moved = Counter((_own_verdict(item.row), item.verdict) for item in stored)
        to_reject = sum(n for (old, new), n in moved.items() if old != "NG" and new == "NG")
        to_pass = sum(n for (old, new), n in moved.items() if old == "NG" and new != "NG")
        changed = f"{to_reject + to_pass} of {len(stored):,} stored results would change."
        return ReviewOut(
            defects=len(defects.judged),
            defects_passing=defects.passing,
            defects_missing=defects.missing_ids,
            defects_not_kept=len(defects.not_kept),
            missed=len(missed.judged),
            missed_not_judged=len(missed.missing) + len(missed.not_kept),
            missed_found=len(missed.judged) - len(missed.passing),
            compared=len(stored),
            to_reject=to_reject,
            to_pass=to_pass,
            messages=[changed, *_sentences(defects, missed)],
        )

    async def _judge_cases(self, candidate: ServedModel, rows: Sequence[Row]) -> Cases:
        """Judge all of these, however many: one that is left out might be the one that passes."""
        kept_rows = [row for row in rows if row["kept"]]
        judged = await self._judge(candidate, kept_rows, most_inspected=len(kept_rows))
        done = {item.row["result_id"] for item in judged}
        return Cases(
            judged,
            [row for row in kept_rows if row["result_id"] not in done],
            [row for row in rows if not row["kept"]],
        )

    async def _judge(
        self, candidate: ServedModel, rows: Sequence[Row], *, most_inspected: int
    ) -> list[Judged]:
        """Judge rows as far as something is kept of them."""
        judged: list[Judged] = []
        inspections_left = most_inspected
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            gathered = await gather(
                self.inspector, self.recording, candidate, chunk, most_inspected=inspections_left
            )
            inspections_left -= sum(item.inspected for item in gathered)
            judged += judge_again(candidate, gathered)
        return judged


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


def _must_be_rejected(row: Row) -> bool:
    return is_held_against(row, row["kind"])


def _own_verdict(row: Row) -> str:
    """The calibration's own verdict: what a request asked for is no change."""
    verdict: str = row["calibrated_verdict"] or row["verdict"]
    return verdict


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
    """A row of the store with evidence that a version's own weights gathered, perhaps just now."""

    row: Row
    evidence: StoredEvidence
    inspected: bool


async def gather(
    inspector: Inspector,
    recording: Recording,
    model: ServedModel,
    rows: Sequence[Row],
    *,
    most_inspected: int,
) -> list[Stored]:
    """Return the evidence of rows.

    Where it is another model's, or gone, the first images are inspected anew. Left out are rows of
    which neither evidence nor a readable image is there.
    """
    with_evidence: list[Stored] = []
    without_evidence: list[Row] = []
    for row, evidence in zip(rows, await recording.evidence(rows), strict=True):
        if evidence is not None and weights_of(evidence) == model.bundle.weights:
            with_evidence.append(Stored(row, evidence, inspected=False))
        else:
            without_evidence.append(row)
    inspected = await all_in_turns(
        [
            partial(_inspected, inspector, recording, model, row)
            for row in without_evidence[:most_inspected]
        ]
    )
    return with_evidence + [item for item in inspected if item is not None]


async def _inspected(
    inspector: Inspector, recording: Recording, model: ServedModel, row: Row
) -> Stored | None:
    image = await recording.image(row)
    if image is None:
        return None
    try:
        inspection = await inspector.inspect_unrecorded(image, model, row["camera"])
    except ImageError as error:
        _log.warning("the image of result %s cannot be read: %s", row["result_id"], error)
        return None
    return Stored(row, inspection.evidence(), inspected=True)


def judge_again(model: ServedModel, stored: Sequence[Stored]) -> list[Judged]:
    """Judge evidence by a version's calibrations, each camera's by its own."""
    by_camera: dict[str | None, list[Stored]] = {}
    for item in stored:
        by_camera.setdefault(item.row["camera"], []).append(item)
    judged = []
    grid, names = model.bundle.model.target.map_grid, model.bundle.model.names
    for camera, camera_items in by_camera.items():
        calibration = model.detector.calibration_of(camera)
        errors = errors_of([item.evidence for item in camera_items], names)
        roi_masks = [
            calibration.roi_mask(placement_of(item.evidence), grid) for item in camera_items
        ]
        masks = [item for item in roi_masks if item is not None]
        scores = calibration.image_scores(errors, grid, torch.stack(masks) if masks else None)
        judged += [
            Judged(item.row, calibration.verdict(float(score)))
            for item, score in zip(camera_items, scores, strict=True)
        ]
    return judged


def errors_of(evidence: Sequence[StoredEvidence], names: tuple[str, ...]) -> Evidence:
    """Stack stored evidence, (N, 1, E, L)."""
    stacked = np.stack([item["errors"] for item in evidence]).astype(np.float32)
    return Evidence(torch.from_numpy(stacked).unsqueeze(1), names)
