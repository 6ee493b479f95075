"""`POST /v1/models/{name}:calibrate`: a new threshold from good parts, without training."""

import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from anomaly.roi import Roi, read_roi
from record.result import JsonObject
from record.store import Filter
from service.concurrency import Count, in_thread
from service.errors import BodyUnusable, NothingRecorded
from service.http.answering import in_time
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.body import media_type_of, read_body, read_images
from service.http.counted import CountedRequest
from service.http.parameters import invalid
from service.http.problems import problems
from service.inference.served_model import ServedModel
from service.jobs.calibrations import Judging, Work
from service.recalibration.calibrator import CalibrationRequest, Calibrator, Normals
from service.routes.jobs import job_out
from service.routes.models import versions
from service.schemas.calibration import CalibrateIn, CalibrateQuery, CalibrationOut
from service.schemas.jobs import JobOut
from service.state import AppState, app_state

router = APIRouter(tags=["models"])

_MOST_IMAGES = 1000
_MOST_JSON_BYTES = 1_000_000
_ROI = "roi"  # the file part that is the region of interest, not an image
_FILE = {"type": "string", "format": "binary"}
_BODY: JsonObject = {
    **SECURED,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": CalibrateIn.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "minItems": 1, "items": _FILE},
                        _ROI: _FILE,
                    },
                }
            },
        },
    },
}


_ACCEPTED: JsonObject = {
    "description": "It goes on as a job: ask /v1/jobs/{id}.",
    "model": JobOut,
    "headers": {"Preference-Applied": {"schema": {"type": "string"}}},
}


@router.post(
    "/v1/models/{name}:calibrate",
    dependencies=[Depends(needs(Role.OPERATE))],
    response_model=CalibrationOut,
    responses={
        202: _ACCEPTED,
        **problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=_BODY,
)
async def calibrate(
    request: Request,
    name: str,
    query: Annotated[CalibrateQuery, Query()],
    parts: Annotated[AppState, Depends(app_state)],
    *,
    prefer: Annotated[
        str | None, Header(max_length=200, description="`respond-async`: 202 and a job at once.")
    ] = None,
) -> CalibrationOut | JSONResponse:
    """Calibrate a serving model anew, on stored results (JSON) or images of good parts (multipart).

    The new version is staged beside the one that serves; `:activate` lets it serve, or
    `activate=true` at once. Images in one folder (by their file names) are one group. With
    `Prefer: respond-async` the body is read and the rest is a job, which a restart loses.
    """
    model = await parts.registry.acquire(name)
    readers = {"application/json": _from_json, "multipart/form-data": _from_multipart}
    read = readers.get(media_type_of(request))
    if read is None:
        raise BodyUnusable("send JSON that names stored results, or multipart/form-data of images")
    is_async = _prefers_async(prefer)
    if is_async:
        parts.jobs.calibrations.check_room()
    with ExitStack() as held:
        charge = held.enter_context(parts.inspector.budget.open(bulk=True))
        gathering = await read(CountedRequest(request, charge), model, query, parts.calibrator)
        work = partial(_calibrated, parts=parts, model=model, query=query, gathering=gathering)
        if not is_async:
            return await work(Judging())
        job = parts.jobs.calibrations.start(model.name, _as_json(work), held.pop_all().close)
    return JSONResponse(
        job_out(job).model_dump(mode="json"),
        status_code=202,
        headers={"Preference-Applied": "respond-async", "Location": f"/v1/jobs/{job.id}"},
    )


async def _calibrated(
    judging: Judging,
    *,
    parts: AppState,
    model: ServedModel,
    query: CalibrateQuery,
    gathering: "_Gathering",
) -> CalibrationOut:
    """Look at the normal parts, calibrate on them, and stage the version that comes of it."""
    normals, settings = await gathering(judging.count)
    judging.settle()
    calibrator = parts.calibrator
    if normals is None:
        done = await calibrator.move(model, settings)
    else:
        done = await calibrator.calibrate(model, normals, settings)
    if query.activate:
        await parts.registry.activate(model.name, gate=parts.gate, version=done.version)
    return CalibrationOut(
        versions=versions(done.slot),
        version=done.version,
        activated=query.activate,
        normals=done.normals,
        statement=done.statement,
        review=done.review,
    )


def _as_json(work: Callable[[Judging], Awaitable[CalibrationOut]]) -> Work:
    async def working(judging: Judging) -> JsonObject:
        return (await work(judging)).model_dump(mode="json")

    return working


def _prefers_async(prefer: str | None) -> bool:
    """Whether a Prefer header (RFC 7240) asks for an answer at once."""
    preferences = (prefer or "").split(",")
    return any(text.partition(";")[0].strip().lower() == "respond-async" for text in preferences)


# Normal parts to calibrate on; None where only the threshold moves.
_Gathering = Callable[[Count], Awaitable[tuple[Normals | None, CalibrationRequest]]]


async def _from_json(
    request: Request, model: ServedModel, query: CalibrateQuery, calibrator: Calibrator
) -> _Gathering:
    body = await in_time(calibrator.inspector, read_body(request, _MOST_JSON_BYTES))
    calibrate_in, roi = await in_thread(calibrator.inspector.parsers, lambda: _parsed(body))
    calibration_request = _request_of(query, roi=roi, changes_roi=calibrate_in.roi is not None)
    which, recording = calibrate_in.results, calibrator.recording
    if which == "none":
        return _nothing_gathered(calibration_request)
    if recording is None:
        raise NothingRecorded("this service keeps no results (MASKLINE_RECORD=off); send images")
    filter_ = Filter(
        camera=which.camera or query.camera, lot=which.lot, since=which.since, until=which.until
    )

    async def gathering(counted: Count) -> tuple[Normals | None, CalibrationRequest]:
        normals = await calibrator.from_results(
            recording,
            model,
            filter_,
            limit=which.limit,
            group_by=which.group_by,
            counted=counted,
        )
        return normals, calibration_request

    return gathering


def _nothing_gathered(request: CalibrationRequest) -> _Gathering:
    async def gathering(_counted: Count) -> tuple[None, CalibrationRequest]:
        return None, request

    return gathering


def _parsed(body: bytes) -> tuple[CalibrateIn, Roi | None]:
    try:
        calibrate_in = CalibrateIn.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise invalid("body", error) from error
    return calibrate_in, roi_of(calibrate_in.roi)


def roi_of(polygons: JsonObject | str | None) -> Roi | None:
    """Draw the region of interest of a body; None where there is none. Raises `RoiInvalid`."""
    return read_roi(json.dumps(polygons).encode()) if isinstance(polygons, dict) else None


async def _from_multipart(
    request: Request, model: ServedModel, query: CalibrateQuery, calibrator: Calibrator
) -> _Gathering:
    max_bytes = calibrator.inspector.settings.max_bulk_bytes
    reading = read_images(request, max_bytes=max_bytes, max_images=_MOST_IMAGES)
    parts = await in_time(calibrator.inspector, reading)
    regions = [data for part, _, data in parts if part == _ROI]
    images = [(name, data) for part, name, data in parts if part != _ROI]
    roi = await calibrator.inspector.in_pool(lambda: read_roi(regions[0])) if regions else None

    async def gathering(counted: Count) -> tuple[Normals | None, CalibrationRequest]:
        normals = await calibrator.from_images(model, images, query.camera, counted=counted)
        return normals, _request_of(query, roi=roi, changes_roi=bool(regions))

    return gathering


def _request_of(query: CalibrateQuery, **roi: Any) -> CalibrationRequest:
    return CalibrationRequest(
        query.false_alarm_rate, query.warn_rate, query.camera, threshold=query.threshold, **roi
    )
