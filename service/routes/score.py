"""`POST /score` and `POST /v1/score/batch`."""

from fastapi import APIRouter, Request, Response

from record.result import JsonObject
from service.http.answering import inspect_request, label_request, written
from service.http.api_keys import Role
from service.http.auth import SECURED, asks
from service.http.body import FILES_BODY
from service.http.bulk import inspect_all
from service.http.counted import CountedResponse
from service.http.parameters import SCORE_PARAMETERS, score_query
from service.http.problems import problems
from service.schemas.labels import SupervisedOut
from service.schemas.scoring import BatchOut, ScoreOut
from service.state import inspector

router = APIRouter(tags=["score"])

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY: JsonObject = {
    **SECURED,
    "parameters": SCORE_PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _IMAGE,
            "image/png": _IMAGE,
            "image/bmp": _IMAGE,
            "image/tiff": _IMAGE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    },
}
_EXAMPLE = {
    "score": 7.31,
    "p_value": 0.0065,
    "threshold": 4.02,
    "is_anomalous": True,
    "verdict": "NG",
    "score_std": 0.22,
    "regions": [
        {
            "bbox": [212, 96, 40, 31],
            "area_px": 884,
            "peak": [231, 110],
            "centroid": [230.4, 111.2],
            "peak_score": 7.9,
        }
    ],
    "heatmap": {
        "kind": "float16",
        "media_type": "application/octet-stream",
        "data": "AD4APg==",
        "height": 1,
        "width": 2,
        "threshold": 4.02,
    },
    "model": {
        "name": "bracket",
        "version": "20261124T101500Z",
        "digest": "5d41…",
        "calibration": "9e10…",
    },
    "part_id": "A-1007",
    "camera": "cam1",
    "lot": None,
    "result_id": "0b0c5b0e4a3f4d0c8f4b3f8f8a2b1c77",
    "input": {"warnings": []},
    "timings": {"read": 0.001, "decode": 0.002, "queue": 0.0, "inference": 0.06, "encode": 0.0},
}
_Answer = ScoreOut | SupervisedOut
_PROBLEMS = problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_RESPONSES: dict[int | str, JsonObject] = {
    200: {"content": {"application/json": {"example": _EXAMPLE}}},
    **_PROBLEMS,
}


@router.post("/score", response_model=_Answer, responses=_RESPONSES, openapi_extra=_BODY)
@router.post("/v1/score", response_model=_Answer, responses=_RESPONSES, openapi_extra=_BODY)
@asks(Role.SCORE)
async def score(request: Request) -> Response:
    """Inspect one image: OK or NG, with score, p-value, regions and heatmap.

    A model of labels ('maskline finetune') answers with kinds, boxes or masks instead; its answers
    are not recorded.

    Every parameter may also come as a header, `X-Maskline-<Name>`; the query wins.
    """
    query = score_query(request)
    inspector_ = await inspector(request)
    labels = inspector_.engine.labels.has(query.model)
    answer: ScoreOut | SupervisedOut
    if labels:
        answer = await label_request(inspector_, request, query)
    else:
        answer = await inspect_request(inspector_, request, query)
    return CountedResponse(inspector_.budget, await written(inspector_, answer))


_PARTS: JsonObject = {
    **SECURED,
    "parameters": SCORE_PARAMETERS,
    "requestBody": FILES_BODY,
}


@router.post("/v1/score/batch", response_model=BatchOut, responses=_PROBLEMS, openapi_extra=_PARTS)
@asks(Role.SCORE)
async def score_batch(request: Request) -> Response:
    """Inspect many images, the file parts of one multipart body; each has its own status.

    `deadline_ms` holds for each image. Use `priority=low` for archives, so that the line goes
    first.
    """
    inspector_ = await inspector(request)
    answer = await inspect_all(inspector_, request, score_query(request))
    return CountedResponse(inspector_.budget, await written(inspector_, answer))
