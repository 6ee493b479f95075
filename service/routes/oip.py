"""Open Inference Protocol v2 under `/v2`, for clients that speak it already."""

from functools import partial
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from record.result import JsonObject
from service.concurrency import all_in_turns, in_thread
from service.errors import ModelUnknown
from service.http.answering import in_time
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.body import read_chunks
from service.http.counted import CountedRequest, CountedResponse
from service.http.disconnect import while_wanted
from service.http.open_inference import (
    HEADER_LENGTH,
    OUTPUTS,
    InferIn,
    Limits,
    deadline_ms,
    read_request,
)
from service.http.open_inference_tensors import write_response
from service.http.problems import problems
from service.inference.inspection import Source
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.routes import health
from service.schemas.scoring import ScoreQuery
from service.state import inspector, registry
from service.timings import Timings, first_stage

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_MAY_READ = [Depends(needs(Role.READ))]
_MAY_SCORE = [Depends(needs(Role.SCORE))]
_RESPONSES = problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_BODY: JsonObject = {
    **SECURED,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_Inspector = Annotated[Inspector, Depends(inspector)]


router.add_api_route("/health/live", health.live, methods=["GET"])
router.add_api_route("/health/ready", health.ready, methods=["GET"], responses=health.NOT_READY)


@router.get("")
async def server_metadata() -> JsonObject:
    """Name, version and extensions of the server."""
    extensions = ["binary_tensor_data"]
    return {"name": "maskline", "version": version("maskline"), "extensions": extensions}


@router.get("/models/{name}", dependencies=_MAY_READ, responses=_RESPONSES, openapi_extra=SECURED)
async def model_metadata(name: str, registry: Annotated[Registry, Depends(registry)]) -> JsonObject:
    """Inputs and outputs of a model."""
    model = await registry.acquire(name)
    grid = model.bundle.model.target.map_grid
    cells = [grid.rows, grid.cols] if model.config.preprocess.bands == 1 else [-1, -1]
    shapes = {"anomaly_map": [-1, *cells]}
    return {
        "name": model.name,
        "versions": [model.bundle.version],
        "platform": "maskline",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": kind, "shape": shapes.get(output, [-1])}
            for output, kind in OUTPUTS.items()
        ],
    }


@router.get(
    "/models/{name}/ready", dependencies=_MAY_READ, responses=_RESPONSES, openapi_extra=SECURED
)
async def model_ready(request: Request, name: str, inspector: _Inspector) -> JsonObject:
    """Say that a model would answer now."""
    inspector.engine.registry.find(name)
    await health.ready(request)
    return {"name": name, "ready": True}


@router.post(
    "/models/{name}/infer", dependencies=_MAY_SCORE, responses=_RESPONSES, openapi_extra=_BODY
)
async def infer(request: Request, name: str, inspector: _Inspector) -> Response:
    """Inspect the images of the tensor `image`; an image that cannot be read fails the request."""
    return await _infer(request, name, None, inspector)


@router.post(
    "/models/{name}/versions/{version_name}/infer",
    dependencies=_MAY_SCORE,
    responses=_RESPONSES,
    openapi_extra=_BODY,
)
async def infer_version(
    request: Request, name: str, version_name: str, inspector: _Inspector
) -> Response:
    """Do the same, if that version is the one that serves."""
    return await _infer(request, name, version_name, inspector)


async def _infer(
    request: Request, name: str, version_name: str | None, inspector: Inspector
) -> Response:
    inspector.engine.registry.find(name)
    with inspector.budget.open(bulk=True) as charge:
        infer_in, images = await _read(CountedRequest(request, charge), inspector)
        query = ScoreQuery(model=name, deadline_ms=deadline_ms(infer_in))
        deadline = inspector.deadline_of(query)
        timings = [Timings("decode") for _ in images]
        async with while_wanted(request, deadline, lambda: first_stage(timings)):
            _check_version(await inspector.engine.registry.acquire(name), version_name)
            inspections = await all_in_turns(
                [
                    partial(inspector.detect, image, query, deadline, image_timings)
                    for image, image_timings in zip(images, timings, strict=True)
                ]
            )
        content, headers = await in_thread(
            inspector.parsers, lambda: write_response(name, infer_in, inspections)
        )
    return CountedResponse(inspector.budget, content, headers=headers)


async def _read(request: CountedRequest, inspector: Inspector) -> tuple[InferIn, list[Source]]:
    """Read the body, and take it apart in a thread."""
    settings = inspector.settings
    length = request.headers.get(HEADER_LENGTH)
    limits = Limits(settings.max_bulk_images, settings.max_image_pixels)
    chunks = await in_time(inspector, read_chunks(request, settings.max_bulk_bytes))
    return await in_thread(
        inspector.parsers, lambda: read_request(b"".join(chunks), length, limits)
    )


def _check_version(model: ServedModel, version: str | None) -> None:
    if version is not None and version != model.bundle.version:
        raise ModelUnknown(f"{model.name!r} serves version {model.bundle.version}, not {version}")
