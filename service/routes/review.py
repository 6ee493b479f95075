"""`GET /v1/review`: what to look at next, and who looks at what."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from record.filters import Filter
from record.result import JsonObject
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.http.reviewing import REVIEWER_PARAMETER, reviewer_of
from service.routes.results import Record
from service.schemas.results import ResultOut
from service.schemas.review import ClaimOut, QueueOut, ReviewQuery

router = APIRouter(tags=["review"])

_RESPONSES = problems(401, 403, 404, 422, 500, 503)
_MAY_REVIEW = [Depends(needs(Role.REVIEW))]
_EXTRA: JsonObject = SECURED | {"parameters": [REVIEWER_PARAMETER]}


@router.get(
    "/v1/review",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES,
    openapi_extra=_EXTRA,
    response_model=QueueOut,
)
async def read_queue(
    request: Request, query: Annotated[ReviewQuery, Query()], record: Record
) -> Response:
    """Say what to look at: WARN and NG of which nothing is said and that nobody else has claimed.

    The oldest of the last 30 days stand first. Where they are fewer than `limit`, good parts follow
    that are drawn at random of the 1,000 newest kept ones of which nothing is said.
    """
    filter_ = Filter(camera=query.camera, model=query.model)
    queue = await record.review.queue(reviewer_of(request), filter_, query.limit)

    def written() -> str:
        outs = [ResultOut.of(result) for result in queue.results]
        return QueueOut(
            results=outs, waiting=queue.waiting, sampled=queue.sampled, kinds=queue.kinds
        ).model_dump_json()

    return Response(await asyncio.to_thread(written), media_type="application/json")


@router.post(
    "/v1/results/{result_id}:claim",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES | problems(409, 429),
    openapi_extra=_EXTRA,
)
async def claim(request: Request, result_id: str, record: Record) -> ClaimOut:
    """Take a result to look at for 60 seconds; ask again to go on, before they are over.

    Refused while somebody else looks at it (409 `claimed`). Feedback ends it.
    """
    claimed = await record.review.claim(result_id, reviewer_of(request))
    by = claimed.holder.name or ""
    return ClaimOut(result_id=result_id, by=by, until=claimed.until)


@router.post(
    "/v1/results/{result_id}:release",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES | problems(409),
    openapi_extra=_EXTRA,
    status_code=204,
)
async def release(request: Request, result_id: str, record: Record) -> None:
    """Let others look at a result; the same reviewer sees it behind all others from now on."""
    record.review.release(result_id, reviewer_of(request))
