"""A result: one inspection as it is stored, and what people said of it.

The table (`record.tables`), the wire (`service.schemas.ResultOut`) and the export have the fields
of `Result`; what one of them lacks fails a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

JsonObject = dict[str, Any]  # a JSON object whose fields another place describes
WITHDRAWN = "withdrawn"  # a kind of feedback after which nothing is said of a result


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One inspection. Moments are in UTC; what is None by default is so in older rows as well."""

    id: int | None = None  # the store's, in the order of arrival
    result_id: str
    # The caller, the camera and their key as one text (`service.results.idempotency`), so that it
    # is unique among all.
    idempotency_key: str | None = None
    fingerprint: str | None = None  # of the request, where it had a key
    inspected_at: datetime
    triggered_at: datetime | None = None
    model: str
    version: str
    digest: str
    calibration: str | None = None  # digest of the one that judged
    kept: bool | None = None  # whether its image was to be kept
    part_id: str | None = None
    camera: str | None = None
    lot: str | None = None
    program: str | None = None  # the line's own
    verdict: str
    # The calibration's own, whatever threshold the request asked for.
    calibrated_verdict: str | None = None
    is_anomalous: bool
    score: float
    threshold: float
    p_value: float
    score_std: float
    regions: list[JsonObject]
    timings: dict[str, float]  # seconds by stage
    image_sha256: str

    def row(self) -> JsonObject:
        """Return the fields by name, without the store's number."""
        return {name: getattr(self, name) for name in FIELDS}


FIELDS = tuple(field.name for field in fields(Result) if field.name != "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What somebody said of a result; the last one said of it counts, and may withdraw all."""

    id: int | None = None  # the store's, in the order of arrival
    result_id: str
    created_at: datetime
    author: str | None = None
    kind: str
    defect: str | None = None
    comment: str | None = None
    regions: list[int] | None = None  # which of the result's regions `defect` names


@dataclass(frozen=True, slots=True)
class Defect:
    """A result that somebody called a defect, and the `kind` that was said of it last."""

    result: Result
    kind: str


@dataclass(frozen=True, slots=True)
class Discussed:
    """A result with what was said of it, the last first."""

    result: Result
    feedback: Sequence[Feedback]
