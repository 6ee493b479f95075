"""The shapes of the wire, and one conversion from `Detection`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from anomaly.calibration_report import CalibrationReport
from anomaly.drift import Drift
from anomaly.familiarity import CODES, InputWarning
from anomaly.types import Detection, Region, Verdict
from record.result import Discussed, JsonObject, Result
from service.feedback import FeedbackOut
from service.wire import IdempotencyKey, Label, Moment, Text

GroupBy = Literal["result_id", "part_id", "lot", "camera"]
HeatmapKind = Literal["none", "float16", "png", "overlay", "overlay_png"]


class ScoreQuery(BaseModel):
    """What a request may say beside its image, in the query."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(description="Which model; may be left out with one.")] = None
    part_id: Annotated[Label | None, Field(description="Echoed in the answer.")] = None
    camera: Annotated[Label | None, Field(description="Label of the metrics.")] = None
    lot: Annotated[Label | None, Field(description="Echoed in the answer.")] = None
    recipe: Annotated[Label | None, Field(description="The line's own program; stored.")] = None
    threshold: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="Threshold for this request only."),
    ] = None
    false_alarm_rate: Annotated[
        float | None, Field(gt=0, lt=1, description="Stated false-alarm rate, this request only.")
    ] = None
    triggered_at: Annotated[
        Moment | None,
        Field(description="When the camera was triggered; UTC where it has no zone; stored."),
    ] = None
    idempotency_key: Annotated[
        IdempotencyKey | None,
        Field(
            description=(
                "The same request repeated with it gets the first one's result, not a new one; "
                "another image or other parameters are refused. One API key's and camera's keys "
                "are their own."
            )
        ),
    ] = None
    deadline_ms: Annotated[
        float | None,
        Field(gt=0, le=600_000, description="Answer within this time, or 504 without computing."),
    ] = None
    priority: Annotated[
        Literal["normal", "low"],
        Field(description="low gives way to normal, but always gets a share of the turns."),
    ] = "normal"
    heatmap: Annotated[
        HeatmapKind,
        Field(
            description=(
                "float16: the patch grid, little-endian; png: grey in the image's size, 128 is the "
                "threshold; overlay: JPEG over the image; overlay_png: the same as PNG. Images of "
                "more than 32 million pixels are drawn at a half or a quarter of their size; "
                "height and width say how large."
            )
        ),
    ] = "float16"


class RegionOut(BaseModel):
    """One anomalous area, in the pixels of the image as sent (after EXIF orientation)."""

    bbox: Annotated[tuple[int, int, int, int], Field(description="x, y, width, height")]
    area_px: int
    peak: Annotated[tuple[int, int], Field(description="x, y")]
    centroid: Annotated[tuple[float, float], Field(description="x, y")]
    peak_score: float

    @classmethod
    def of(cls, region: Region) -> "RegionOut":
        """Convert a region."""
        return cls(
            bbox=region.bbox,
            area_px=region.area_px,
            peak=region.peak,
            centroid=region.centroid,
            peak_score=region.peak_score,
        )


class HeatmapOut(BaseModel):
    """The anomaly map, on a fixed scale: `threshold` is where a place becomes anomalous."""

    kind: HeatmapKind
    media_type: str
    data: Annotated[str, Field(description="base64")]
    height: int
    width: int
    threshold: Annotated[
        float, Field(description="Map value of the threshold: 128 in png, as it is in float16.")
    ]


class ModelRef(BaseModel):
    """Which model gave an answer."""

    name: str
    version: str
    digest: str
    calibration: Annotated[str, Field(description="Digest of the calibration that judged.")]


class InputWarningOut(BaseModel):
    """One way in which an image, or what was asked of it, is unlike what was calibrated on."""

    code: Annotated[str, Field(description=f"Stable: one of {', '.join(CODES)}; more may come.")]
    text: str


class InputOut(BaseModel):
    """Whether the image is like those calibrated on: if not, look at the camera before the part."""

    warnings: list[InputWarningOut]


class ScoreOut(BaseModel):
    """The answer to one image."""

    score: Annotated[float, Field(description="Raw and unclamped; higher is more anomalous.")]
    p_value: Annotated[
        float, Field(description="Share of normal parts at least as anomalous; small is anomalous.")
    ]
    threshold: float
    is_anomalous: bool
    verdict: Annotated[Verdict, Field(description="WARN only where a warning rate was calibrated.")]
    score_std: Annotated[float, Field(description="Spread of the score over repeated masks.")]
    regions: list[RegionOut]
    heatmap: HeatmapOut | None
    model: ModelRef
    part_id: str | None
    camera: str | None
    lot: str | None
    result_id: str
    input: Annotated[
        InputOut | None, Field(description="null in an answer that is repeated from the record.")
    ] = None
    timings: Annotated[dict[str, float], Field(description="Seconds in each stage.")]

    @classmethod
    def of(
        cls,
        detection: Detection,
        query: ScoreQuery,
        *,
        model: ModelRef,
        heatmap: HeatmapOut | None,
        result_id: str,
        timings: dict[str, float],
        warnings: Sequence[InputWarning] = (),
    ) -> "ScoreOut":
        """Convert a detection."""
        input_warnings = [
            InputWarningOut(code=warning.code, text=warning.text) for warning in warnings
        ]
        return cls(
            score=detection.pred_score,
            p_value=detection.p_value,
            threshold=detection.threshold,
            is_anomalous=detection.is_anomalous,
            verdict=detection.verdict,
            score_std=detection.score_std,
            regions=[RegionOut.of(region) for region in detection.regions],
            heatmap=heatmap,
            model=model,
            part_id=query.part_id,
            camera=query.camera,
            lot=query.lot,
            result_id=result_id,
            input=InputOut(warnings=input_warnings),
            timings=timings,
        )

    @classmethod
    def of_result(cls, result: Result) -> "ScoreOut":
        """Restore an answer from the record; it has no heatmap."""
        model = ModelRef(
            name=result.model,
            version=result.version,
            digest=result.digest,
            calibration=result.calibration or "",
        )
        return cls.model_validate(result.row() | {"model": model, "heatmap": None}, extra="ignore")


class ResultOut(BaseModel):
    """One inspection as it is stored."""

    result_id: str
    inspected_at: datetime
    triggered_at: datetime | None
    part_id: str | None
    camera: str | None
    lot: str | None
    recipe: str | None
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

    @classmethod
    def of_discussed(cls, discussed: Discussed) -> "ResultDetailOut":
        """Convert a stored result with what was said of it."""
        feedback = [FeedbackOut.of(entry) for entry in discussed.feedback]
        return cls.model_validate(discussed.result.row() | {"feedback": feedback}, extra="ignore")


class ResultsOut(BaseModel):
    """A page of results, newest first."""

    results: list[ResultOut]
    cursor: Annotated[str | None, Field(description="Asks for the next page; null at the end.")]


class BatchItemOut(BaseModel):
    """One image of a batch: its result, or what was wrong with it."""

    image: Annotated[str, Field(description="The file part's name.")]
    status: Literal["ok", "error"]
    result: ScoreOut | None = None
    error: "Problem | None" = None


class BatchOut(BaseModel):
    """The answers to a batch, in the order of its parts."""

    items: list[BatchItemOut]


class ModelOut(ModelRef):
    """A loaded model."""

    is_default: bool
    canvas: int
    cameras: Annotated[list[str], Field(description="Those with a calibration of their own.")]
    false_alarm_rate: float
    threshold: float
    warn_threshold: float | None
    calibration_images: int
    calibration_groups: int
    smallest_false_alarm_rate: float


class BrokenModelOut(BaseModel):
    """A model that cannot be read, and why."""

    name: str
    code: str
    detail: str


class ModelsOut(BaseModel):
    """All loaded models, the names of all there are, and those that cannot be read."""

    models: list[ModelOut]
    known: list[str]
    broken: list[BrokenModelOut]


class VersionsOut(BaseModel):
    """Which version of a model serves, which waits to be activated, which went before."""

    name: str
    active: str | None
    staged: str | None
    previous: str | None


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


class DriftOut(BaseModel):
    """What the watch over one camera's parts found."""

    camera: Annotated[str, Field(description="none: parts that were sent without a camera.")]
    drift: Drift


class DriftsOut(BaseModel):
    """Whether camera or parts changed; a camera is listed once it has sent a part."""

    model: str
    cameras: list[DriftOut]


class RollbackIn(BaseModel):
    """Which version is meant."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[
        str | None,
        Field(max_length=128, description="The one that was reviewed; 409 where it is another."),
    ] = None


class ActivateIn(RollbackIn):
    """Which version is to serve, and why although a confirmed defect passes or cannot be judged."""

    force: bool = False
    reason: Annotated[Text | None, Field(min_length=3)] = None


class Problem(BaseModel):
    """An error, as application/problem+json."""

    type: str
    status: int
    code: Annotated[str, Field(description="Stable: programs may switch on it.")]
    detail: str
