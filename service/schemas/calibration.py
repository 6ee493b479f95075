"""A new calibration on the wire: what it is made of, and what it would change."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anomaly.calibration import Mode
from anomaly.calibration_report import CalibrationReport
from anomaly.cost import Cost
from anomaly.tradeoff import TradeOff
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

    results: Annotated[
        NormalsIn | Literal["none"],
        Field(
            description="'none': on no other parts than before; the scores stay as they are, and "
            "only the threshold moves, as `:preview` shows it."
        ),
    ] = NormalsIn()
    roi: Annotated[
        JsonObject | Literal["none"] | None,
        Field(description="Polygons (include, ignore, size), or 'none'; left out, it stays."),
    ] = None


class CalibrateQuery(BaseModel):
    """How a new calibration may be wrong, and whom it is for."""

    model_config = ConfigDict(extra="forbid")

    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    warn_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Set by hand, whatever the rate says; no rate is promised then.",
        ),
    ] = None
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


class StakesIn(BaseModel):
    """What errors cost, in one currency, and how many parts are defective."""

    model_config = ConfigDict(extra="forbid")

    escape_cost: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="A bad part passes.")
    ]
    false_alarm_cost: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="A good part is rejected.")
    ] = 1.0
    defect_rate: Annotated[float, Field(gt=0, lt=1, description="Share of bad parts.")]


class PreviewIn(BaseModel):
    """Another threshold to try out, or another region; left out, both stay as they serve."""

    model_config = ConfigDict(extra="forbid")

    threshold: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    false_alarm_rate: Annotated[
        float | None, Field(gt=0, lt=1, description="Instead of a threshold, not beside one.")
    ] = None
    roi: Annotated[
        JsonObject | Literal["none"] | None,
        Field(
            description="Polygons (include, ignore, size), or 'none'. The threshold is then fitted "
            "anew on kept normal parts."
        ),
    ] = None
    camera: Annotated[Label | None, Field(description="For this camera or product alone.")] = None
    limit: Annotated[int, Field(ge=1, le=2000, description="The newest so many results.")] = 200
    stakes: Annotated[
        StakesIn | None, Field(description="Asks which stated rate would cost the least.")
    ] = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.threshold is not None and self.false_alarm_rate is not None:
            raise ValueError("give a threshold or a false_alarm_rate, not both")
        return self


_Ids = Annotated[list[str], Field(max_length=50, description="Result ids, 50 at the most.")]


class PreviewReviewOut(ReviewOut):
    """What the previewed calibration would make of the stored results that it would judge."""

    to_reject_ids: _Ids
    to_pass_ids: _Ids


class PreviewPartsOut(BaseModel):
    """The latest results that were judged again, in arrays of one length, the newest first.

    At a threshold t those with a score above t would be NG. `to_reject` of them passed before,
    `to_pass` of the others were NG: by `calibrated_verdict`, or by `verdict` where that is null.
    """

    result_id: list[str]
    score: Annotated[list[float], Field(description="By the previewed weights and region.")]
    verdict: Annotated[list[str], Field(description="As it was answered.")]
    calibrated_verdict: list[str | None]
    feedback: Annotated[list[str | None], Field(description="What was said last; null: nothing.")]
    inspected_at: list[datetime]


class PreviewDefectsOut(BaseModel):
    """The confirmed and missed defects that were judged again, in arrays of one length.

    At a threshold t those pass whose score is neither above t nor above `doubtful_above`.
    """

    result_id: list[str]
    score: Annotated[list[float], Field(description="By the previewed weights and region.")]
    feedback: Annotated[list[str], Field(description="confirmed_defect or missed_defect.")]
    must_be_rejected: Annotated[
        list[bool],
        Field(description="Counted among `defects` (true) or among `missed` (false)."),
    ]


class PreviewOut(BaseModel):
    """What another threshold or region would do; nothing was saved or staged."""

    model: str
    version: Annotated[str, Field(description="The version that serves, whose weights these are.")]
    camera: str | None
    threshold: float
    warn_threshold: float | None
    doubtful_above: Annotated[
        float | None,
        Field(
            description="Where WARN would begin whatever the threshold is: `warn_threshold` is the "
            "lower one of both; null without a warning rate."
        ),
    ]
    mode: Mode
    trade_off: Annotated[
        TradeOff,
        Field(
            description="False alarms of 1,000 good parts, with 95 %, and the share of synthetic "
            "and of confirmed defects that it rejects (null: there are none)."
        ),
    ]
    costs: Annotated[
        list[Cost],
        Field(
            description="What several stated rates would cost of 1,000 parts, by the confirmed "
            "and missed defects that are kept and by synthetic ones, which count as five; empty "
            "without stakes."
        ),
    ]
    cheapest_rate: Annotated[
        float | None, Field(description="The one that costs the least; null without stakes.")
    ]
    roi_share: float | None
    normals: Annotated[
        int | None, Field(description="Kept parts it was fitted on anew; null where it was not.")
    ]
    review: Annotated[
        PreviewReviewOut | None, Field(description="null where no results are recorded.")
    ]
    parts: Annotated[
        PreviewPartsOut | None, Field(description="null where no results are recorded.")
    ]
    defects: Annotated[
        PreviewDefectsOut | None, Field(description="null where no results are recorded.")
    ]
    messages: list[str]


class CalibrationOut(BaseModel):
    """A staged calibration: what it promises, and what it would change."""

    versions: VersionsOut
    version: str
    activated: bool
    normals: int
    statement: CalibrationReport
    review: Annotated[ReviewOut | None, Field(description="null where no results are recorded.")]
