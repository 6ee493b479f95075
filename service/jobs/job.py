"""What all jobs have in common: who wanted what, how far it is, how it ended."""

import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from record.result import JsonObject

Kind = Literal["training", "calibration"]
State = Literal["waiting", "running", "done", "failed", "stopped"]
EVENT = "job"


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far the stage is that runs; what is not known yet is None."""

    stage: str = ""
    done: int = 0
    total: int | None = None
    images_per_s: float | None = None
    left_s: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed; `code` is stable."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job at one moment; moments are ISO 8601 in UTC."""

    id: str
    kind: Kind
    model: str
    by: str
    state: State = "waiting"
    created_at: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    progress: JobProgress = field(default_factory=JobProgress)
    result: JsonObject | None = None
    error: JobError | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("done", "failed", "stopped")

    def as_json(self) -> JsonObject:
        """Return it as the API says it."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: JsonObject) -> "Job":
        """Read what `as_json` wrote; raises `TypeError` or `KeyError` for anything else."""
        error = values["error"]
        return cls(
            **(
                values
                | {
                    "progress": JobProgress(**values["progress"]),
                    "error": None if error is None else JobError(**error),
                }
            )
        )


def new_id() -> str:
    """Return an id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def now() -> str:
    """Return this moment as jobs say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
