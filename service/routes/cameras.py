"""`GET /v1/cameras`: what each camera sent of late."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.routes.results import Record
from service.schemas.cameras import CameraCalibrationOut, CameraOut, CamerasOut, CamerasQuery
from service.state import registry

router = APIRouter(tags=["results"])

_SEEN = timedelta(days=30)


@router.get(
    "/v1/cameras",
    dependencies=[Depends(needs(Role.VIEW))],
    responses=problems(401, 403, 404, 422, 500, 503),
    openapi_extra=SECURED,
)
async def list_cameras(
    query: Annotated[CamerasQuery, Query()],
    record: Record,
    registry: Annotated[Registry, Depends(registry)],
) -> CamerasOut:
    """Say of each camera of the last 30 days what it sent in the last `hours`, and its last part.

    A camera that is silent has no parts, and its last one is old.
    """
    now = datetime.now(UTC)
    since = now - timedelta(hours=query.hours)
    summaries = await record.reader.ask(lambda store: store.cameras(since, now - _SEEN))
    serving = {model.name: model for model in registry.active}
    return CamerasOut(
        cameras=[
            CameraOut.of(summary, _calibration(serving.get(summary.last.model), summary.camera))
            for summary in summaries
        ]
    )


def _calibration(model: ServedModel | None, camera: str | None) -> CameraCalibrationOut | None:
    if model is None:
        return None
    calibration = model.detector.calibration_of(camera)
    return CameraCalibrationOut(
        digest=model.judged_by(camera),
        version=model.bundle.version,
        is_of_camera=camera in model.detector.cameras,
        mode=calibration.mode,
        threshold=calibration.threshold,
        warn_threshold=calibration.warn_threshold,
        false_alarm_rate=calibration.false_alarm_rate,
    )
