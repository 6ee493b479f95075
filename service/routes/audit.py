"""`GET /v1/audit`: who changed what, read from the end of the audit trail."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.results.recording import Recording
from service.routes.results import recording
from service.schemas.audit import AuditOut, AuditQuery, AuditRowOut

router = APIRouter(tags=["audit"])


@router.get(
    "/v1/audit",
    dependencies=[Depends(needs(Role.OPERATE))],
    responses=problems(401, 403, 404, 422, 500, 503),
    openapi_extra=SECURED,
)
async def list_changes(
    query: Annotated[AuditQuery, Query()], record: Annotated[Recording, Depends(recording)]
) -> AuditOut:
    """List who changed what, newest first; of a long trail only the end is searched.

    It does not check the seals: `maskline audit verify` does.
    """
    rows = await asyncio.to_thread(record.audit.newest, query.limit, query.subject)
    return AuditOut(rows=[AuditRowOut.model_validate(row) for row in rows])
