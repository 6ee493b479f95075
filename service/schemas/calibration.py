"""A new calibration on the wire: what it is made of, and what it would change."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from anomaly.calibration_report import CalibrationReport
from record.result import JsonObject
from service.schemas.models import VersionsOut
from service.wire import Label, Moment

GroupBy = Literal["result_id", "part_id", "lot", "camera"]


class NormalsIn(BaseModel):
    """Which stored results count as normal parts to calibrate on.

    Those that their calibration's own threshold let pass and nobody called a missed defect, and
    those called a false alarm or good.
    """

    model_config = ConfigDict(extra="forbid")

    camera: Label | None = None
    lot: Label | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Field(ge=2, le=2000, description="The newest so many.")] = 500
    group_by: Annotated[
        GroupBy,
        Field(description="What counts as one independent group."),
    ] = "result_id"


class CalibrateIn(BaseModel):
    """A new calibration from stored results."""

    model_config = ConfigDict(extra="forbid")

    results: NormalsIn = NormalsIn()
    roi: Annotated[
        JsonObject | Literal["none"] | None,
        Field(description="Polygons (include, ignore, size), or 'none'; left out, it stays."),
    ] = None


class CalibrateQuery(BaseModel):
    """How a new calibration may be wrong, and whom it is for."""

    model_config = ConfigDict(extra="forbid")

    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    warn_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    camera: Annotated[Label | None, Field(description="For this camera or product alone.")] = None
    activate: Annotated[bool, Field(description="Let it serve at once, if no defect passes.")] = (
        False
    )


class ReviewOut(BaseModel):
    """What a version makes of the results that are stored, as far as their images are kept."""

    defects: Annotated[int, Field(description="Confirmed defects that were judged again.")]
    defects_missing: Annotated[
        list[str],
        Field(description="Ids of confirmed defects whose image was kept and cannot be read now."),
    ]
    defects_not_kept: Annotated[
        int, Field(description="Confirmed defects whose image was never kept: nothing judges them.")
    ]
    defects_passing: Annotated[list[str], Field(description="Ids of those that would be OK.")]
    missed: Annotated[int, Field(description="Missed defects that were judged again.")]
    missed_not_judged: Annotated[int, Field(description="Missed defects whose image is not there.")]
    missed_found: Annotated[int, Field(description="How many of them would not be OK any more.")]
    compared: Annotated[int, Field(description="Latest results that were judged again.")]
    to_reject: Annotated[int, Field(description="Passed, and would be NG.")]
    to_pass: Annotated[int, Field(description="Were NG, and would pass.")]
    messages: list[str]


class CalibrationOut(BaseModel):
    """A staged calibration: what it promises, and what it would change."""

    versions: VersionsOut
    version: str
    activated: bool
    normals: int
    statement: CalibrationReport
    review: Annotated[ReviewOut | None, Field(description="null where no results are recorded.")]
