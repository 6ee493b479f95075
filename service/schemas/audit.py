"""The audit trail on the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from record.result import JsonObject


class AuditQuery(BaseModel):
    """Which rows are wanted."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    subject: Annotated[
        str | None, Field(max_length=256, description="A model, a result or a key by its name.")
    ] = None


class AuditRowOut(BaseModel):
    """One change, as it was sealed."""

    number: int
    at: datetime
    by: Annotated[
        str | None, Field(description="A key, 'service' or whose command; null: nobody with a key.")
    ]
    action: str
    subject: str
    details: JsonObject


class AuditOut(BaseModel):
    """The newest changes first."""

    rows: list[AuditRowOut]
