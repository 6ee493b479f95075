"""What waits for a person, and who looks at it, on the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.results import ResultOut
from service.wire import Label


class ReviewQuery(BaseModel):
    """How much to look at, and of what."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    camera: Label | None = None
    model: Label | None = None


class QueueOut(BaseModel):
    """What to look at next: WARN and NG, the oldest first; then good parts drawn at random."""

    results: list[ResultOut]
    waiting: Annotated[
        int,
        Field(
            description="WARN and NG of the last 30 days of which nothing is said and that nobody "
            "else has claimed; 1,000 are counted at the most."
        ),
    ]
    sampled: Annotated[
        int, Field(description="How many good parts stand at the end, drawn of the newest kept.")
    ]
    kinds: Annotated[
        list[str], Field(description="Names given to defects lately, the most frequent first.")
    ]


class ClaimOut(BaseModel):
    """A result that somebody looks at, until when unless it is claimed again."""

    result_id: str
    by: Annotated[str, Field(description="The API key's name; without keys, the id that was sent.")]
    until: datetime
