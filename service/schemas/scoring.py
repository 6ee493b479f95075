"""An inspection on the wire: what may be asked, and the answer."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from anomaly.familiarity import CODES, InputWarning
from anomaly.kinds import UNKNOWN_BELOW
from anomaly.types import Detection, Region, Verdict
from record.result import Result
from service.wire import IdempotencyKey, Label, Moment

HeatmapKind = Literal["none", "float16", "png", "overlay", "overlay_png"]


class ScoreQuery(BaseModel):
    """What a request may say beside its image, in the query."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str | None, Field(description="Which model; may be left out with one.")] = None
    part_id: Annotated[Label | None, Field(description="Echoed in the answer.")] = None
    camera: Annotated[Label | None, Field(description="Label of the metrics.")] = None
    lot: Annotated[Label | None, Field(description="Echoed in the answer.")] = None
    program: Annotated[Label | None, Field(description="The line's own program; stored.")] = None
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
    kind: Annotated[
        str | None,
        Field(
            description="What labelled parts call it; `unknown` where it is like none of them. "
            "null where nothing is labelled yet."
        ),
    ] = None
    kind_p: Annotated[
        float | None,
        Field(
            description=f"Below {UNKNOWN_BELOW} hardly a labelled example is as far from its kind."
        ),
    ] = None

    @classmethod
    def of(cls, region: Region) -> "RegionOut":
        """Convert a region."""
        return cls(
            bbox=region.bbox,
            area_px=region.area_px,
            peak=region.peak,
            centroid=region.centroid,
            peak_score=region.peak_score,
            kind=region.kind,
            kind_p=region.kind_p,
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
    kinds: Annotated[
        str | None,
        Field(description="Version of what names defects; it follows from its examples."),
    ] = None


class ExcusedOut(BaseModel):
    """Why a part passes that its calibration rejects: a line's rule for all kinds found on it."""

    verdict: Annotated[Verdict, Field(description="What it would be without the rule.")]
    kinds: list[str]
    rule: Literal["warn", "ignore"]

    @classmethod
    def of(cls, detection: Detection) -> "ExcusedOut | None":
        """Say why a detection is excused, if it is."""
        if detection.excused is None:
            return None
        kinds = sorted({region.kind or "" for region in detection.regions})
        return cls(
            verdict="NG", kinds=kinds, rule="warn" if detection.excused == "WARN" else "ignore"
        )


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
    excused: Annotated[
        ExcusedOut | None,
        Field(
            description="null unless a rule for its kinds lets the part pass, and when repeated."
        ),
    ] = None
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
            excused=ExcusedOut.of(detection),
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


class BatchItemOut(BaseModel):
    """One image of a batch: its result, or what was wrong with it."""

    image: Annotated[str, Field(description="The file part's name.")]
    status: Literal["ok", "error"]
    result: ScoreOut | None = None
    error: "Problem | None" = None


class BatchOut(BaseModel):
    """The answers to a batch, in the order of its parts."""

    items: list[BatchItemOut]


class Problem(BaseModel):
    """An error, as application/problem+json."""

    type: str
    status: int
    code: Annotated[str, Field(description="Stable: programs may switch on it.")]
    detail: str
