"""Pictures of a stored result: the image as sent, drawings over it, its map, a small one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from record.result import JsonObject
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.inspector import Inspector
from service.results.evidence import (
    heatmap_of,
    map_of,
    media_type,
    needed,
    size_of,
    thumbnail_of,
)
from service.routes.results import Record
from service.state import inspector

router = APIRouter(tags=["results"])

_RESPONSES = problems(400, 401, 403, 404, 413, 415, 422, 500, 503)
_MAY_VIEW = [Depends(needs(Role.VIEW))]
_PICTURE: JsonObject = {"content": {"image/png": {}, "image/jpeg": {}}}
_JPEG: JsonObject = {"content": {"image/jpeg": {}}}
_MAP: JsonObject = {
    "content": {"image/png": {}},
    "headers": {
        "X-Maskline-Map-Threshold": {
            "description": "The map's value at grey 128; 255 is twice that, or more.",
            "schema": {"type": "number"},
        }
    },
}
# A result is never changed; what is shared by several people is not for a proxy to keep.
_FOR_GOOD = {"Cache-Control": "private, max-age=86400, immutable"}
_Inspector = Annotated[Inspector, Depends(inspector)]


@router.get(
    "/v1/results/{result_id}/image",
    dependencies=_MAY_VIEW,
    responses={200: _PICTURE, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_image(result_id: str, record: Record) -> Response:
    """Return the image as it was sent, if it is kept."""
    result = (await record.find(result_id)).result
    image = needed(await record.image(result), result_id)
    return Response(image, media_type=media_type(image))


@router.get(
    "/v1/results/{result_id}/heatmap",
    dependencies=_MAY_VIEW,
    responses={200: _PICTURE, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_heatmap(result_id: str, record: Record, inspector_: _Inspector) -> Response:
    """Return the heatmap over the image, if both are kept."""
    result = (await record.find(result_id)).result
    image = needed(await record.image(result), result_id)
    [evidence] = await record.evidence([result])
    content = needed(evidence, result_id)
    picture = await inspector_.heatmaps.draw(
        lambda: heatmap_of(image, content, result), content.placement.source
    )
    return Response(picture, media_type="image/jpeg")


@router.get(
    "/v1/results/{result_id}/map",
    dependencies=_MAY_VIEW,
    responses={200: _MAP, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_map(result_id: str, record: Record, inspector_: _Inspector) -> Response:
    """Return the map alone as 8-bit grey PNG, in the size of the image's pictures.

    The scale is the same for all parts: 128 is the threshold of the map, from where on a place is
    anomalous (`X-Maskline-Map-Threshold`), and 255 is twice that or more.
    """
    result = (await record.find(result_id)).result
    [evidence] = await record.evidence([result])
    content = needed(evidence, result_id)
    picture = await inspector_.heatmaps.draw(lambda: map_of(content), content.placement.source)
    headers = _FOR_GOOD | {"X-Maskline-Map-Threshold": str(content.map_threshold)}
    return Response(picture, media_type="image/png", headers=headers)


@router.get(
    "/v1/results/{result_id}/thumbnail",
    dependencies=_MAY_VIEW,
    responses={200: _JPEG, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_thumbnail(
    result_id: str,
    record: Record,
    inspector_: _Inspector,
    *,
    side: Annotated[int, Query(ge=32, le=1024, description="Its longer side at the most.")] = 160,
    overlay: Annotated[bool, Query(description="With the map and its regions.")] = False,
) -> Response:
    """Return a small JPEG of the image, if it is kept."""
    result = (await record.find(result_id)).result
    image = needed(await record.image(result), result_id)
    [evidence] = await record.evidence([result])
    if overlay:
        needed(evidence, result_id)
    overlaid = result if overlay else None
    picture = await inspector_.heatmaps.draw(
        lambda: thumbnail_of(image, evidence, side, overlaid), size_of(image)
    )
    return Response(picture, media_type="image/jpeg", headers=_FOR_GOOD)
