"""Jobs and sets of good parts on the wire."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)

from record.result import JsonObject
from service.schemas.scoring import Problem
from service.wire import Label, Moment, PlainName

_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
_Setting = Annotated[str, Field(pattern=r"^[a-z_]{1,32}(\.[a-z_0-9]{1,32}){1,4}$")]


class DatasetOut(BaseModel):
    """A set of good parts."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    images: int
    bytes: int
    updated_at: datetime


class DatasetsOut(BaseModel):
    """All sets, what they may take together, and where else a training may read."""

    datasets: list[DatasetOut]
    max_bytes: int
    folders: Annotated[list[str], Field(description="Allowed by MASKLINE_TRAIN_FOLDERS.")]


class RefusedFileOut(BaseModel):
    """A file that was not taken."""

    index: Annotated[int, Field(description="Its place in the request, from 0.")]
    file: Annotated[str, Field(description="What the sender calls it.")]
    error: Problem


class AdditionOut(BaseModel):
    """What became of images that were sent or copied."""

    dataset: Annotated[DatasetOut | None, Field(description="None: no image was ever taken.")]
    added: int
    copies: Annotated[int, Field(description="Images that were there, or came twice.")]
    refused: list[RefusedFileOut] = []
    missing: Annotated[int, Field(description="Results whose image is not there any more.")] = 0


class FromResultsIn(BaseModel):
    """Which results' pictures are copied: kept ones of parts that count as good."""

    model_config = ConfigDict(extra="forbid")

    model: Label | None = None
    camera: Label | None = None
    lot: Label | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=2000, description="The newest so many.")] = 500


class TrainIn(BaseModel):
    """A training of a model on a set of good parts, or on an allowed folder."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[PlainName, Field(description="Name of the model to make, new or not.")]
    dataset: PlainName | None = None
    folder: Annotated[
        str | None,
        Field(max_length=1000, description="Within a folder of MASKLINE_TRAIN_FOLDERS."),
    ] = None
    recipe: _Word = "default"
    false_alarm_rate: Annotated[float | None, Field(gt=0, lt=1)] = None
    settings: Annotated[
        dict[_Setting, StrictBool | StrictInt | StrictFloat | _Word],
        Field(max_length=64, description="Overrides of the recipe, as --set takes them."),
    ] = {}

    @model_validator(mode="after")
    def _names_one_source(self) -> Self:
        if (self.dataset is None) == (self.folder is None):
            raise ValueError("name either a 'dataset' or a 'folder'")
        return self

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings in TOML."""
        return tuple(f"{name}={_toml(value)}" for name, value in self.settings.items())


class JobProgressOut(BaseModel):
    """How far a job's present stage is."""

    stage: str
    done: int
    total: int | None
    images_per_s: float | None
    left_s: Annotated[float | None, Field(description="Of this stage; others may follow.")]
    loss: float | None


class JobErrorOut(BaseModel):
    """Why a job failed."""

    code: str
    detail: str


class JobOut(BaseModel):
    """A training or a calibration."""

    id: str
    kind: Literal["training", "calibration"]
    model: str
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: JobProgressOut
    result: JsonObject | None
    error: JobErrorOut | None


class JobsOut(BaseModel):
    """All jobs that are remembered, the newest first."""

    jobs: list[JobOut]
    recipes: Annotated[list[str], Field(description="What a training may name.")]


def _toml(value: bool | float | str) -> str:  # noqa: FBT001  (a value, not a choice)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)
