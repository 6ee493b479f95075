"""`GET /v1/report`: a period on one page, to read and to print."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from service.errors import NothingRecorded
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.report.maker import ReportRequest, Reports
from service.report.page import POLICY
from service.report.period import period_of
from service.report.wording import Language
from service.state import AppState, app_state
from service.wire import Label

router = APIRouter(tags=["results"])

_MOMENT = "A moment (without a zone: of `zone`), a date, `now`, or how long ago: 90min, 8h, 1d, 2w."
_LONGEST = 64


class ReportQuery(BaseModel):
    """Of what the report is wanted."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[str, Field(max_length=_LONGEST, description=_MOMENT)] = "8h"
    until: Annotated[
        str, Field(max_length=_LONGEST, description=f"{_MOMENT} A date counts to its end.")
    ] = "now"
    camera: Label | None = None
    lot: Label | None = None
    language: Language = "en"
    zone: Annotated[
        str | None,
        Field(max_length=_LONGEST, description="Europe/Berlin, say; else the machine's."),
    ] = None


async def reports(parts: Annotated[AppState, Depends(app_state)]) -> Reports:
    """Return what makes reports; raises `NothingRecorded`."""
    if parts.reports is None:
        raise NothingRecorded("this service keeps no results (MASKLINE_RECORD=off)")
    return parts.reports


@router.get(
    "/v1/report",
    dependencies=[Depends(needs(Role.VIEW))],
    responses=problems(401, 403, 404, 422, 429, 500, 503),
    openapi_extra=SECURED,
    response_class=HTMLResponse,
)
async def shift_report(
    query: Annotated[ReportQuery, Query()], maker: Annotated[Reports, Depends(reports)]
) -> HTMLResponse:
    """Return the shift report as one page without scripts, which prints on A4."""
    request = ReportRequest(
        period=period_of(query.since, query.until, query.zone, datetime.now(UTC)),
        camera=query.camera,
        lot=query.lot,
        language=query.language,
    )
    page = await maker.make(request)
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})
