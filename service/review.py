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
from service.bulk import in_turns
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
        review = await self.review(candidate, latest=0)
        if review.defects_passing:
            raise DefectsWouldPass(
                f"version {candidate.bundle.version} of {candidate.name!r} would pass "
                f"{len(review.defects_passing)} of {review.defects} confirmed defects "
                f"({', '.join(review.defects_passing[:5])}); an admin may force it with a reason"
            )

    async def review(self, candidate: ServedModel, latest: int | None = None) -> ReviewOut:
        """Judge all cases and the `latest` kept results of a model."""
        name = candidate.name
        cases = await self._judge(candidate, await self.recording.kept_defects(name, _MOST_CASES))
        rows = await self.recording.kept_latest(name, self.results if latest is None else latest)
        stored = await self._judge(candidate, rows, most_inspected=_MOST_INSPECTED)
        defects = [one for one in cases if one.row["kind"] == "confirmed_defect"]
        missed = [one for one in cases if one.row["kind"] == "missed_defect"]
        passing = tuple(one.row["result_id"] for one in defects if one.verdict == "OK")
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
            defects_passing=list(passing),
            missed=len(missed),
            missed_found=found,
            compared=len(stored),
            to_reject=to_reject,
            to_pass=to_pass,
            said=said,
        )

    async def _judge(
        self, candidate: ServedModel, rows: Sequence[Row], most_inspected: int = _MOST_CASES
    ) -> list[Judged]:
        """Judge rows as far as something is kept of them."""
        judged: list[Judged] = []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            found = await gather(
                self.inspector, self.recording, candidate, chunk, most_inspected=most_inspected
            )
            judged += judge_again(candidate, found)
        return judged


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the store with evidence that a version's own weights gathered."""

    row: Row
    evidence: Evidence


async def gather(
    inspector: Inspector,
    recording: Recording,
    model: ServedModel,
    rows: Sequence[Row],
    *,
    most_inspected: int,
) -> list[Stored]:
    """Return the evidence of rows; of another model's, the first images are inspected anew."""
    kept = await recording.evidence(rows)
    own = [
        Stored(row, evidence)
        for row, evidence in zip(rows, kept, strict=True)
        if evidence is not None and weights_of(evidence) == model.bundle.weights
    ]
    others = [
        row
        for row, evidence in zip(rows, kept, strict=True)
        if evidence is not None and weights_of(evidence) != model.bundle.weights
    ]
    found = await in_turns(
        [partial(_inspected, inspector, recording, model, row) for row in others[:most_inspected]]
    )
    for one in found:
        if isinstance(one, BaseException):
            raise one
        own += [one] if one is not None else []
    return own


async def _inspected(
    inspector: Inspector, recording: Recording, model: ServedModel, row: Row
) -> Stored | None:
    image = await recording.image(row)
    if image is None:
        return None
    found = await inspector.look(image, model, row["camera"])
    return Stored(row, found.evidence())


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
