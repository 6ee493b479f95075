"""`GET /v1/results`: what was inspected."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from anomaly.types import Verdict
from record.filters import Filter, Order, Page, is_of_order
from record.result import JsonObject, Result
from service.errors import NothingRecorded, RoleInsufficient
from service.feedback import FeedbackIn, FeedbackKind, FeedbackOut
from service.http.api_keys import Role
from service.http.auth import SECURED, check, needs
from service.http.problems import problems
from service.http.reviewing import REVIEWER_PARAMETER, reviewer_of
from service.inspector import Inspector
from service.results.recording import Recording
from service.schemas.results import ResultDetailOut, ResultOut, ResultsOut
from service.state import inspector
from service.wire import Label, Moment, Text

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
    verdict: Annotated[list[Verdict], Field(description="One or several; left out, any.")] = []
    feedback: Annotated[
        FeedbackKind | Literal["none"] | None,
        Field(description="What was said of them last; none: nothing, or it was withdrawn."),
    ] = None
    defect: Annotated[Label | None, Field(description="The name given with it.")] = None
    kept: Annotated[bool | None, Field(description="Whether its image was to be kept.")] = None
    search: Annotated[
        Text | None,
        Field(
            max_length=128, description="How part_id or lot begin; capitals are not small letters."
        ),
    ] = None
    since: Annotated[Moment | None, Field(description="Inspected at or after.")] = None
    until: Annotated[Moment | None, Field(description="Inspected before.")] = None
    order: Annotated[Order, Field(description="By moment of inspection.")] = "newest"

    @property
    def filter(self) -> Filter:
        """What the store is asked."""
        named = self.model_dump(include={*ResultsQuery.model_fields} - {"order"})
        return Filter(**named | {"verdict": self.verdict or None})


class PageQuery(ResultsQuery):
    """Which page of them."""

    cursor: Annotated[
        str | None,
        Field(
            pattern=r"^o?\d{1,17}\.\d{1,18}$",
            description="Of the page before, which has the same order.",
        ),
    ] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100

    @model_validator(mode="after")
    def _goes_on_in_its_order(self) -> Self:
        if self.cursor is not None and not is_of_order(self.cursor, self.order):
            raise ValueError("the cursor is of a page in the other order")
        return self


class ExportQuery(ResultsQuery):
    """In which form all of them."""

    form: Literal["jsonl", "csv"] = "jsonl"


async def recording(inspector: Annotated[Inspector, Depends(inspector)]) -> Recording:
    """Return the app's record; raises `NothingRecorded`."""
    if inspector.recording is None:
        raise NothingRecorded("this service keeps no results (MASKLINE_RECORD=off)")
    return inspector.recording


Record = Annotated[Recording, Depends(recording)]


@router.get(
    "/v1/results",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    response_model=ResultsOut,
)
async def list_results(query: Annotated[PageQuery, Query()], record: Record) -> Response:
    """List results, newest or oldest first; `cursor` of the answer asks for the next page."""
    page = await record.reader.page(
        query.filter, cursor=query.cursor, limit=query.limit, order=query.order
    )

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
    query: Annotated[ExportQuery, Query()], record: Record
) -> StreamingResponse:
    """Send all matching results as JSON-Lines or CSV; memory holds one page."""

    async def page_at(cursor: str | None) -> Page:
        return await record.reader.page(query.filter, cursor=cursor, limit=_PAGE, order=query.order)

    first = await page_at(None)  # errors before the answer

    async def lines() -> AsyncIterator[str]:
        page, header = first, True
        while True:
            # In a thread: a page costs tens of milliseconds, in which the event loop answers the
            # line.
            yield await asyncio.to_thread(_written, page.results, query.form, header=header)
            if page.cursor is None:
                return
            page, header = await page_at(page.cursor), False

    media = "text/csv" if query.form == "csv" else "application/x-ndjson"
    name = {"Content-Disposition": f'attachment; filename="results.{query.form}"'}
    return StreamingResponse(lines(), media_type=media, headers=name)


@router.get(
    "/v1/results/{result_id}",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def read_result(result_id: str, record: Record) -> ResultDetailOut:
    """Return one result by the id that its answer had, with what was said of it."""
    discussed = await record.find(result_id)
    has_mask = await record.masks.has(discussed.result)
    return ResultDetailOut.of_discussed(discussed, has_mask=has_mask)


@router.post(
    "/v1/results/{result_id}/feedback",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES | problems(409, 429),
    openapi_extra=SECURED | {"parameters": [REVIEWER_PARAMETER]},
    status_code=201,
)
async def say(
    request: Request,
    result_id: str,
    feedback: FeedbackIn,
    record: Record,
    *,
    inspector: Annotated[Inspector, Depends(inspector)],
) -> FeedbackOut:
    """Say what the part really was: a false alarm, a confirmed defect, or one that was missed.

    It may be said again; the last counts, and `withdrawn` is as if nobody had spoken. A confirmed
    defect, which new versions are held against, is taken back by an admin only (403
    `role_insufficient`), or withdrawn within ten minutes by who confirmed it. What somebody else
    has claimed (`:claim`) is refused (409 `claimed`). From a `defect`'s name on, other parts'
    regions are named (`GET /v1/models/{name}/kinds`).
    """
    record.review.check(result_id, reviewer_of(request))
    author = getattr(request.state, "key", None)
    notes: list[str] = []
    if feedback.defect is not None:  # before it is stored: nothing may fail after that
        model = (await record.reader.find(result_id)).result.model
        notes = inspector.kinds.notes(model, feedback.defect)
    entry = await record.feedback.add(result_id, feedback, author, is_admin=_is_admin(request))
    record.review.judged(result_id)
    inspector.kinds.wake()
    return FeedbackOut.of(entry, notes)


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
