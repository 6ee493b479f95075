"""`GET /v1/results`: what was inspected."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from anomaly.types import Verdict
from record.result import JsonObject, Result
from record.store import Filter
from service.errors import NothingRecorded, RoleInsufficient
from service.feedback import FeedbackIn, FeedbackKind, FeedbackOut
from service.http.api_keys import Role
from service.http.auth import SECURED, check, needs
from service.http.problems import problems
from service.inspector import Inspector
from service.results.evidence import heatmap_of, media_type, needed
from service.results.recording import Recording
from service.schemas.results import ResultDetailOut, ResultOut, ResultsOut
from service.state import inspector
from service.wire import Label, Moment

router = APIRouter(tags=["results"])

_RESPONSES = problems(401, 403, 404, 422, 500, 503)
_MAY_VIEW = [Depends(needs(Role.VIEW))]
_MAY_REVIEW = [Depends(needs(Role.REVIEW))]
_PAGE = 1000  # rows read at a time by an export


class ResultsQuery(BaseModel):
    """Which results are wanted; a moment without a zone is UTC."""

    model_config = ConfigDict(extra="forbid")

    model: Label | None = None
    camera: Label | None = None
    lot: Label | None = None
    part_id: Label | None = None
    verdict: Verdict | None = None
    feedback: Annotated[FeedbackKind | None, Field(description="What was said of them last.")] = (
        None
    )
    since: Annotated[Moment | None, Field(description="Inspected at or after.")] = None
    until: Annotated[Moment | None, Field(description="Inspected before.")] = None

    @property
    def filter(self) -> Filter:
        """What the store is asked."""
        named = self.model_dump(include={*ResultsQuery.model_fields})
        return Filter(**named)


class PageQuery(ResultsQuery):
    """Which page of them."""

    cursor: Annotated[
        str | None, Field(pattern=r"^\d{1,17}\.\d{1,18}$", description="Of the page before.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class ExportQuery(ResultsQuery):
    """In which form all of them."""

    form: Literal["jsonl", "csv"] = "jsonl"


async def recording(inspector: Annotated[Inspector, Depends(inspector)]) -> Recording:
    """Return the app's record; raises `NothingRecorded`."""
    if inspector.recording is None:
        raise NothingRecorded("this service keeps no results (MASKLINE_RECORD=off)")
    return inspector.recording


_Recording = Annotated[Recording, Depends(recording)]


@router.get(
    "/v1/results",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    response_model=ResultsOut,
)
async def list_results(query: Annotated[PageQuery, Query()], record: _Recording) -> Response:
    """List results, newest first; `cursor` of the answer asks for the next page."""
    page = await record.reader.page(query.filter, cursor=query.cursor, limit=query.limit)

    def written() -> str:
        outs = [ResultOut.of(result) for result in page.results]
        return ResultsOut(results=outs, cursor=page.cursor).model_dump_json()

    return Response(await asyncio.to_thread(written), media_type="application/json")


@router.get(
    "/v1/results:export",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    response_class=StreamingResponse,
)
async def export_results(
    query: Annotated[ExportQuery, Query()], record: _Recording
) -> StreamingResponse:
    """Send all matching results, newest first, as JSON-Lines or CSV; memory holds one page."""
    first = await record.reader.page(
        query.filter, cursor=None, limit=_PAGE
    )  # errors before the answer

    async def lines() -> AsyncIterator[str]:
        page, header = first, True
        while True:
            # In a thread: a page costs tens of milliseconds, in which the event loop answers the
            # line.
            yield await asyncio.to_thread(_written, page.results, query.form, header=header)
            if page.cursor is None:
                return
            page, header = (
                await record.reader.page(query.filter, cursor=page.cursor, limit=_PAGE),
                False,
            )

    media = "text/csv" if query.form == "csv" else "application/x-ndjson"
    name = {"Content-Disposition": f'attachment; filename="results.{query.form}"'}
    return StreamingResponse(lines(), media_type=media, headers=name)


@router.get(
    "/v1/results/{result_id}",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def read_result(result_id: str, record: _Recording) -> ResultDetailOut:
    """Return one result by the id that its answer had, with what was said of it."""
    return ResultDetailOut.of_discussed(await record.reader.find(result_id))


_PICTURE: JsonObject = {"content": {"image/png": {}, "image/jpeg": {}}}


@router.get(
    "/v1/results/{result_id}/image",
    dependencies=_MAY_VIEW,
    responses={200: _PICTURE, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_image(result_id: str, record: _Recording) -> Response:
    """Return the image as it was sent, if it is kept."""
    result = (await record.reader.find(result_id)).result
    image = needed(await record.image(result), result_id)
    return Response(image, media_type=media_type(image))


@router.get(
    "/v1/results/{result_id}/heatmap",
    dependencies=_MAY_VIEW,
    responses={200: _PICTURE, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_heatmap(
    result_id: str, record: _Recording, inspector_: Annotated[Inspector, Depends(inspector)]
) -> Response:
    """Return the heatmap over the image, if both are kept."""
    result = (await record.reader.find(result_id)).result
    image = needed(await record.image(result), result_id)
    [evidence] = await record.evidence([result])
    content = needed(evidence, result_id)
    picture = await inspector_.heatmaps.draw(
        lambda: heatmap_of(image, content, result), content.placement.source
    )
    return Response(picture, media_type="image/jpeg")


@router.post(
    "/v1/results/{result_id}/feedback",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES | problems(409, 429),
    openapi_extra=SECURED,
    status_code=201,
)
async def say(
    request: Request, result_id: str, feedback: FeedbackIn, record: _Recording
) -> FeedbackOut:
    """Say what the part really was: a false alarm, a confirmed defect, or one that was missed.

    It may be said again; the last counts. A confirmed defect, which new versions are held against,
    is taken back by an admin only (403 `role_insufficient`).
    """
    author = getattr(request.state, "key", None)
    entry = await record.feedback.add(result_id, feedback, author, is_admin=_is_admin(request))
    return FeedbackOut.of(entry)


def _is_admin(request: Request) -> bool:
    try:
        check(request, Role.ADMIN)
    except RoleInsufficient:
        return False
    return True


def _written(stored: list[Result], form: str, *, header: bool) -> str:
    rows = [ResultOut.of(result).model_dump(mode="json") for result in stored]
    return _csv(rows, header=header) if form == "csv" else _jsonl(rows)


def _jsonl(rows: list[JsonObject]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _csv(rows: list[JsonObject], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ResultOut.model_fields))
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({k: _cell(v) for k, v in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Lists and objects as JSON; a text that a spreadsheet would run as a formula as text."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return "'" + value
    return value
