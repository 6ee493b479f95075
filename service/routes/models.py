"""`GET /v1/models`, and loading, switching and going back."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from service.errors import ReasonMissing
from service.http.api_keys import Role
from service.http.auth import SECURED, check, needs
from service.http.problems import problems
from service.inference.registry import Registry
from service.inference.served_model import ServedModel, Slot
from service.inspector import Inspector
from service.schemas.labels import LabelModelOut
from service.schemas.models import (
    ActivateIn,
    BrokenModelOut,
    CameraCalibrationOut,
    DriftOut,
    DriftsOut,
    ModelOut,
    ModelsOut,
    RollbackIn,
    VersionsOut,
)
from service.state import AppState, app_state, inspector, registry

router = APIRouter(tags=["models"])

_RESPONSES = problems(401, 403, 404, 409, 422, 429, 500, 503)
_MAY_READ = [Depends(needs(Role.READ))]
_MAY_OPERATE = [Depends(needs(Role.OPERATE))]
_Registry = Annotated[Registry, Depends(registry)]
_Inspector = Annotated[Inspector, Depends(inspector)]
_Version = Annotated[
    str | None, Query(max_length=128, description="The one that is meant; also in the body.")
]


@router.get(
    "/v1/models",
    dependencies=_MAY_READ,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def list_models(inspector: _Inspector) -> ModelsOut:
    """List the loaded models, with thresholds and what they can certify, and the broken ones.

    Models of labels, which have no threshold, stand in `labels`.
    """
    registry, labels = inspector.engine.registry, inspector.engine.labels
    models = [_model_out(model, registry.default_name) for model in registry.active]
    broken = [
        BrokenModelOut(name=slot.name, code=slot.failure.code, detail=str(slot.failure))
        for slot in registry.slots.values()
        if slot.active is None and slot.failure is not None
    ]
    broken += [
        BrokenModelOut(name=name, code=error.code, detail=str(error))
        for name, error in labels.broken.items()
    ]
    slots = [registry.slots[name] for name in sorted(registry.slots)]
    return ModelsOut(
        models=models,
        known=[slot.name for slot in slots],
        broken=broken,
        versions=[versions(slot) for slot in slots],
        labels=[LabelModelOut.of(served.bundle) for served in labels.serving.values()],
    )


@router.post(
    "/v1/models/{name}:load", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=SECURED
)
async def load(name: str, inspector: _Inspector) -> VersionsOut:
    """Read, check, warm up and stage the version in the model's folder; nothing switches yet.

    A model of labels has no stage to wait on: it serves at once.
    """
    registry, labels = inspector.engine.registry, inspector.engine.labels
    if name not in registry.slots and await labels.discovered(name):
        served = await labels.load(name)
        active = served.bundle.version
        return VersionsOut(name=name, active=active, staged=None, previous=None)
    return versions(await registry.load(name))


@router.post(
    "/v1/models/{name}:activate",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def activate(
    request: Request,
    name: str,
    parts: Annotated[AppState, Depends(app_state)],
    *,
    how: ActivateIn | None = None,
    version: _Version = None,
) -> VersionsOut:
    """Let the staged version serve from the next request on; the one before is kept.

    Name the `version` that you looked at: where another is staged by now, it is refused (409
    `version_changed`). Refused, too, where a confirmed defect would pass (409 `defects_would_pass`)
    or cannot be judged (409 `cases_missing`); an admin may force it, and says why.
    """
    registry, how = parts.registry, how or ActivateIn()
    meant = how.version or version
    if not how.force:
        why = _reason(how)
        return versions(await registry.activate(name, gate=parts.gate, version=meant, **why))
    check(request, Role.ADMIN)
    if how.reason is None:
        raise ReasonMissing("whoever forces a version says why: 'reason'")
    slot = await registry.activate(name, gate=None, version=meant, forced_because=how.reason)
    return versions(slot)


@router.post(
    "/v1/models/{name}:rollback",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def rollback(
    name: str, registry: _Registry, how: RollbackIn | None = None, version: _Version = None
) -> VersionsOut:
    """Let the previous version serve again, also after a restart; `version` may say which one."""
    meant = (how or RollbackIn()).version or version
    return versions(await registry.rollback(name, version=meant, **_reason(how)))


@router.post(
    "/v1/models/{name}:discard",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def discard(name: str, registry: _Registry, how: RollbackIn | None = None) -> VersionsOut:
    """Let the staged version go; the one that serves goes on, also after a restart."""
    meant = None if how is None else how.version
    return versions(await registry.discard(name, version=meant, **_reason(how)))


@router.get(
    "/v1/models/{name}/drift",
    dependencies=_MAY_READ,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def drift(name: str, inspector: _Inspector) -> DriftsOut:
    """Say whether camera or parts changed since the last calibration, camera by camera."""
    slot = inspector.engine.registry.find(name)
    watches = inspector.drifts.of(slot.name)
    return DriftsOut(
        model=slot.name,
        cameras=[DriftOut(camera=camera, drift=watch.drift) for camera, watch in watches.items()],
    )


def versions(slot: Slot) -> VersionsOut:
    """Say which version of a model serves, which waits, which went before."""
    return VersionsOut.model_validate(slot.versions)


def _reason(how: RollbackIn | None) -> dict[str, str]:
    """What a switch's row in the audit trail says of why."""
    return {} if how is None or how.reason is None else {"reason": how.reason}


def _model_out(model: ServedModel, default: str | None) -> ModelOut:
    calibration, by_camera = model.detector.calibration, model.detector.cameras
    return ModelOut(
        name=model.name,
        version=model.bundle.version,
        digest=model.bundle.digest,
        calibration=model.judged_by(None),
        cameras=sorted(by_camera),
        camera_calibrations=[
            CameraCalibrationOut(
                camera=camera,
                threshold=by_camera[camera].threshold,
                mode=by_camera[camera].mode,
                false_alarm_rate=by_camera[camera].false_alarm_rate,
                calibration_groups=by_camera[camera].images.groups,
            )
            for camera in sorted(by_camera)
        ],
        is_default=model.name == default,
        canvas=model.config.preprocess.canvas,
        engine=model.detector.engine,
        false_alarm_rate=calibration.false_alarm_rate,
        threshold=calibration.threshold,
        mode=calibration.mode,
        warn_threshold=calibration.warn_threshold,
        calibration_images=len(calibration.images.scores),
        calibration_groups=calibration.images.groups,
        smallest_false_alarm_rate=calibration.images.smallest_rate,
    )
