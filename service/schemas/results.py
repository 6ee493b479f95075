"""Stored results on the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from record.result import Discussed, Result
from service.feedback import FeedbackOut
from service.schemas.scoring import RegionOut


class ResultOut(BaseModel):
    """One inspection as it is stored."""

    result_id: str
    inspected_at: datetime
    triggered_at: datetime | None
    part_id: str | None
    camera: str | None
    lot: str | None
    program: str | None
    verdict: str
    calibrated_verdict: Annotated[
        str | None,
        Field(description="The calibration's own, whatever threshold the request asked for."),
    ]
    score: float
    threshold: float
    p_value: float
    score_std: float
    model: str
    version: str
    digest: str
    calibration: Annotated[str | None, Field(description="Digest of the calibration that judged.")]
    image_sha256: str
    kept: Annotated[bool | None, Field(description="Whether its image was to be kept.")]
    regions: list[RegionOut]
    timings: dict[str, float]

    @classmethod
    def of(cls, result: Result) -> "ResultOut":
        """Convert a stored result."""
        return cls.model_validate(result.row(), extra="ignore")


class ResultDetailOut(ResultOut):
    """One inspection with what people said of it, the last first; the last counts."""

    feedback: list[FeedbackOut]
    mask: Annotated[bool, Field(description="Whether somebody marked which pixels are defective.")]

    @classmethod
    def of_discussed(cls, discussed: Discussed, *, has_mask: bool) -> "ResultDetailOut":
        """Convert a stored result with what was more of it."""
        feedback = [FeedbackOut.of(entry) for entry in discussed.feedback]
        more = {"feedback": feedback, "mask": has_mask}
        return cls.model_validate(discussed.result.row() | more, extra="ignore")


class ResultsOut(BaseModel):
    """A page of results, newest first."""

    results: list[ResultOut]
    cursor: Annotated[str | None, Field(description="Asks for the next page; null at the end.")]
