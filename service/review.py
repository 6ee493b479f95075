"""What a new version would change, before it serves: cases that people judged, and the latest results.

A confirmed defect that would pass forbids the version. Evidence is judged again where the weights are the
same; otherwise the kept image is inspected by the new version, at low priority.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from anomaly.scoring import PatchErrors
from anomaly.types import Verdict
from service.bulk import all_in_turns
from service.errors import DefectsWouldPass
from service.inspection import Inspector
from service.kept import Evidence, placement_of, weights_of
from service.recording import Recording
from service.registry import ServedModel
from service.schemas import ReviewOut

Row = dict[str, Any]
_CHUNK = 200
_MOST_CASES = 1000
_MOST_INSPECTED = 100  # latest results whose images are inspected anew: that costs the device


@dataclass(frozen=True, slots=True)
class Judged:
    """A stored result and the verdict that a version would give."""

    row: Row
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Judges stored results by a version that does not serve yet."""

    inspector: Inspector
    recording: Recording
    results: int

    async def check(self, candidate: ServedModel) -> None:
        """Raise `DefectsWouldPass` unless every confirmed defect is still rejected."""
        defects = _said(await self._cases(candidate), "confirmed_defect")
        if passing := _passing(defects):
            raise DefectsWouldPass(
                f"version {candidate.bundle.version} of {candidate.name!r} would pass "
                f"{len(passing)} of {len(defects)} confirmed defects "
                f"({', '.join(passing[:5])}); an admin may force it with a reason"
            )

    async def review(self, candidate: ServedModel) -> ReviewOut:
        """Judge all cases and the latest kept results of a model."""
        cases = await self._cases(candidate)
        rows = await self.recording.kept_latest(candidate.name, self.results)
        stored = await self._judge(candidate, rows, most_inspected=_MOST_INSPECTED)
        defects, missed = _said(cases, "confirmed_defect"), _said(cases, "missed_defect")
        passing = _passing(defects)
        moved = Counter((one.row["verdict"], one.verdict) for one in stored)
        to_reject = sum(n for (old, new), n in moved.items() if old != "NG" and new == "NG")
        to_pass = sum(n for (old, new), n in moved.items() if old == "NG" and new != "NG")
        found = sum(one.verdict != "OK" for one in missed)
        said = [f"{to_reject + to_pass} of {len(stored):,} stored results would change."]
        if cases:
            said.append(
                f"{len(passing)} of {len(defects)} confirmed defects would pass; {found} of {len(missed)} "
                "missed ones would be found."
            )
        return ReviewOut(
            defects=len(defects),
            defects_passing=passing,
            missed=len(missed),
            missed_found=found,
            compared=len(stored),
            to_reject=to_reject,
            to_pass=to_pass,
            said=said,
        )

    async def _cases(self, candidate: ServedModel) -> list[Judged]:
        rows = await self.recording.kept_defects(candidate.name, _MOST_CASES)
        return await self._judge(candidate, rows, most_inspected=_MOST_CASES)

    async def _judge(
        self, candidate: ServedModel, rows: Sequence[Row], *, most_inspected: int
    ) -> list[Judged]:
        """Judge rows as far as something is kept of them."""
        judged: list[Judged] = []
        left = most_inspected
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            found = await gather(
                self.inspector, self.recording, candidate, chunk, most_inspected=left
            )
            left -= sum(one.inspected for one in found)
            judged += judge_again(candidate, found)
        return judged


def _said(cases: Sequence[Judged], kind: str) -> list[Judged]:
    return [one for one in cases if one.row["kind"] == kind]


def _passing(defects: Sequence[Judged]) -> list[str]:
    return [one.row["result_id"] for one in defects if one.verdict == "OK"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the store with evidence that a version's own weights gathered, perhaps just now."""

    row: Row
    evidence: Evidence
    inspected: bool


async def gather(
    inspector: Inspector,
    recording: Recording,
    model: ServedModel,
    rows: Sequence[Row],
    *,
    most_inspected: int,
) -> list[Stored]:
    """Return the evidence of rows; of another model's, the first images are inspected anew."""
    own: list[Stored] = []
    others: list[Row] = []
    for row, evidence in zip(rows, await recording.evidence(rows), strict=True):
        if evidence is None:
            continue
        if weights_of(evidence) == model.bundle.weights:
            own.append(Stored(row, evidence, inspected=False))
        else:
            others.append(row)
    found = await all_in_turns(
        [partial(_inspected, inspector, recording, model, row) for row in others[:most_inspected]]
    )
    return own + [one for one in found if one is not None]


async def _inspected(
    inspector: Inspector, recording: Recording, model: ServedModel, row: Row
) -> Stored | None:
    image = await recording.image(row)
    if image is None:
        return None
    found = await inspector.look(image, model, row["camera"])
    return Stored(row, found.evidence(), inspected=True)


def judge_again(model: ServedModel, stored: Sequence[Stored]) -> list[Judged]:
    """Judge evidence by a version's calibrations, each camera's by its own."""
    by_camera: dict[str | None, list[Stored]] = {}
    for one in stored:
        by_camera.setdefault(one.row["camera"], []).append(one)
    judged = []
    grid, names = model.bundle.model.target.map_grid, model.bundle.model.names
    for camera, own in by_camera.items():
        calibration = model.detector.calibration_of(camera)
        errors = errors_of([one.evidence for one in own], names)
        counts = [calibration.counts(placement_of(one.evidence), grid) for one in own]
        told = [one for one in counts if one is not None]
        scores = calibration.image_scores(errors, grid, torch.stack(told) if told else None)
        judged += [
            Judged(one.row, calibration.verdict(float(score)))
            for one, score in zip(own, scores, strict=True)
        ]
    return judged


def errors_of(evidence: Sequence[Evidence], names: tuple[str, ...]) -> PatchErrors:
    """Stack stored evidence, (N, 1, E, L)."""
    stacked = np.stack([one["errors"] for one in evidence]).astype(np.float32)
    return PatchErrors(torch.from_numpy(stacked).unsqueeze(1), names)
