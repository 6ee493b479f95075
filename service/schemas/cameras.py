"""Cameras on the wire: what each sent of late, and what judges it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from anomaly.calibration import Mode
from record.camera_summary import CameraSummary
from service.schemas.results import ResultOut


class CamerasQuery(BaseModel):
    """How far back parts are counted."""

    model_config = ConfigDict(extra="forbid")

    hours: Annotated[float, Field(gt=0, le=168)] = 1


class CameraCalibrationOut(BaseModel):
    """What judges a camera's next part."""

    digest: str
    version: str
    is_of_camera: Annotated[bool, Field(description="Not the one for all other cameras.")]
    mode: Mode
    threshold: float
    warn_threshold: float | None
    false_alarm_rate: float


class CameraOut(BaseModel):
    """One camera: its last part, and how many it sent."""

    camera: Annotated[str | None, Field(description="null: parts without one.")]
    model: Annotated[str, Field(description="The one that judged its last part.")]
    last: ResultOut
    parts: Annotated[int, Field(description="In the hours that were asked for.")]
    warn: int
    ng: int
    takt_s: Annotated[
        float | None,
        Field(description="Median seconds between its last 20 parts; null where there is one."),
    ]
    calibration: Annotated[
        CameraCalibrationOut | None, Field(description="null where the model is not loaded.")
    ]

    @classmethod
    def of(cls, summary: CameraSummary, calibration: CameraCalibrationOut | None) -> "CameraOut":
        """Convert a camera."""
        verdicts = summary.verdicts
        return cls(
            camera=summary.camera,
            model=summary.last.model,
            last=ResultOut.of(summary.last),
            parts=sum(verdicts.values()),
            warn=verdicts["WARN"],
            ng=verdicts["NG"],
            takt_s=summary.takt_s,
            calibration=calibration,
        )


class CamerasOut(BaseModel):
    """All cameras of the last 30 days, the one that sent last first."""

    cameras: list[CameraOut]
