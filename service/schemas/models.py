"""Models and their versions on the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from anomaly.calibration import Mode
from anomaly.drift import Drift
from service.schemas.labels import LabelModelOut
from service.schemas.scoring import ModelRef
from service.wire import Text


class CameraCalibrationOut(BaseModel):
    """A camera's own calibration in short."""

    camera: str
    threshold: float
    mode: Mode
    false_alarm_rate: float
    calibration_groups: int


class ModelOut(ModelRef):
    """A loaded model."""

    is_default: bool
    canvas: int
    engine: Annotated[str, Field(description="What computes it here, and how exactly.")]
    cameras: Annotated[list[str], Field(description="Those with a calibration of their own.")]
    camera_calibrations: Annotated[
        list[CameraCalibrationOut], Field(description="What judges the parts of those cameras.")
    ]
    false_alarm_rate: float
    threshold: float
    mode: Annotated[
        Mode,
        Field(
            description="What stands behind the threshold: enough parts to certify the rate, an "
            "estimate, the largest score seen (models of earlier releases), or somebody's hand."
        ),
    ]
    warn_threshold: float | None
    calibration_images: int
    calibration_groups: int
    smallest_false_alarm_rate: float


class BrokenModelOut(BaseModel):
    """A model that cannot be read, and why."""

    name: str
    code: str
    detail: str


class VersionsOut(BaseModel):
    """Which version of a model serves, which waits to be activated, which went before."""

    name: str
    active: str | None
    staged: str | None
    previous: str | None


class ModelsOut(BaseModel):
    """All loaded models, the names of all there are, and those that cannot be read."""

    models: list[ModelOut]
    known: list[str]
    broken: list[BrokenModelOut]
    versions: Annotated[list[VersionsOut], Field(description="Of all there are, by name.")]
    labels: Annotated[
        list[LabelModelOut], Field(description="Models of labels ('maskline finetune').")
    ] = []


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
    reason: Annotated[
        Text | None, Field(min_length=3, description="Why; sealed into the audit trail.")
    ] = None


class ActivateIn(RollbackIn):
    """Which version is to serve, and whether although a confirmed defect passes or is missing."""

    force: bool = False
