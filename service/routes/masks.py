"""`/v1/results/{id}/mask`: which pixels of a part are defective, as people mark them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from record.result import JsonObject, Result
from service.http.answering import in_time
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.body import read_body
from service.http.counted import CountedRequest
from service.http.problems import problems
from service.http.reviewing import REVIEWER_PARAMETER, reviewer_of
from service.inspector import Inspector
from service.results.evidence import needed
from service.results.masks import (
    READING_BYTES_PER_PX,
    accepted_mask,
    check_header,
    encoded_mask,
    picture_size_of,
    read_mask,
)
from service.results.recording import Recording
from service.routes.results import Record
from service.state import inspector

router = APIRouter(tags=["results"])

_RESPONSES = problems(401, 403, 404, 422, 500, 503)
_WRITING = _RESPONSES | problems(400, 408, 409, 413, 415, 429, 507)
_MAY_VIEW = [Depends(needs(Role.VIEW))]
_MAY_REVIEW = [Depends(needs(Role.REVIEW))]
_EXTRA: JsonObject = SECURED | {"parameters": [REVIEWER_PARAMETER]}
_BODY: JsonObject = {
    "requestBody": {
        "required": True,
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PNG: JsonObject = {"content": {"image/png": {}}}
_Inspector = Annotated[Inspector, Depends(inspector)]
_Index = Annotated[int, Field(ge=0)]


class AcceptIn(BaseModel):
    """Which found regions show what is defective."""

    model_config = ConfigDict(extra="forbid")

    regions: Annotated[
        list[_Index] | None,
        Field(min_length=1, max_length=50, description="Indexes into the result's; null: all."),
    ] = None


@router.put(
    "/v1/results/{result_id}/mask",
    dependencies=_MAY_REVIEW,
    responses=_WRITING,
    openapi_extra=_EXTRA | _BODY,
    status_code=204,
)
async def put_mask(
    request: Request, result_id: str, record: Record, inspector_: _Inspector
) -> None:
    """Say which pixels of a part are defective, in place of what was said before.

    A PNG, upright and as large as the picture (`/image` as it is seen): every pixel that is neither
    black nor transparent is defective (422 `mask_invalid`). It is kept for good with its picture;
    what somebody else has claimed is refused (409 `claimed`).
    """
    record.review.check(result_id, reviewer_of(request))
    result = (await record.reader.find(result_id)).result
    size = await _picture_size(record, inspector_, result)
    limit = inspector_.settings.max_body_bytes
    with inspector_.budget.open() as charge:
        data = await in_time(inspector_, read_body(CountedRequest(request, charge), limit))
        check_header(data, size)
        charge.add(READING_BYTES_PER_PX * size[0] * size[1])
        author = getattr(request.state, "key", None)
        mask = await inspector_.in_pool(
            lambda: encoded_mask(read_mask(data, size), "drawn", author)
        )
        await record.masks.put(result, mask)


@router.get(
    "/v1/results/{result_id}/mask",
    dependencies=_MAY_VIEW,
    responses={200: _PNG, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read(result_id: str, record: Record) -> Response:
    """Return the mask as 8-bit grey PNG, 255 where the part is defective (404 `mask_missing`)."""
    result = (await record.reader.find(result_id)).result
    mask = await record.masks.read(result)
    return Response(mask, media_type="image/png", headers={"Cache-Control": "private, no-cache"})


@router.delete(
    "/v1/results/{result_id}/mask",
    dependencies=_MAY_REVIEW,
    responses=_RESPONSES | problems(409),
    openapi_extra=_EXTRA,
    status_code=204,
)
async def remove(request: Request, result_id: str, record: Record) -> None:
    """Remove a mask; its picture stays (404 `mask_missing` where there is none)."""
    record.review.check(result_id, reviewer_of(request))
    await record.masks.remove((await record.reader.find(result_id)).result)


@router.post(
    "/v1/results/{result_id}:accept",
    dependencies=_MAY_REVIEW,
    responses=_WRITING,
    openapi_extra=_EXTRA,
    status_code=204,
)
async def accept(
    request: Request,
    result_id: str,
    accepted: AcceptIn,
    *,
    record: Record,
    inspector_: _Inspector,
) -> None:
    """Make the mask of the found regions, in place of what was said before.

    Defective is what the map says above its level inside the regions' boxes.
    """
    record.review.check(result_id, reviewer_of(request))
    result = (await record.reader.find(result_id)).result
    needed(await record.image(result), result_id)
    [evidence] = await record.evidence([result])
    content = needed(evidence, result_id)
    author = getattr(request.state, "key", None)
    mask = await inspector_.heatmaps.draw(
        lambda: encoded_mask(accepted_mask(content, result, accepted.regions), "accepted", author),
        content.placement.source,
    )
    await record.masks.put(result, mask)


async def _picture_size(
    record: Recording, inspector_: Inspector, result: Result
) -> tuple[int, int]:
    image = needed(await record.image(result), result.result_id)
    [evidence] = await record.evidence([result])
    return await inspector_.in_pool(lambda: picture_size_of(image, evidence))
