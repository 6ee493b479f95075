"""`GET /v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.engine import ServedModel
from service.inspection import Inspector
from service.parameters import inspector
from service.schemas import ModelOut, ModelsOut

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(inspector: Annotated[Inspector, Depends(inspector)]) -> ModelsOut:
    """List the loaded models, each with its threshold and what its calibration can certify."""
    default = inspector.engine.default_name
    models = inspector.engine.models.values()
    return ModelsOut(models=[_model_out(model, default) for model in models])


def _model_out(model: ServedModel, default: str | None) -> ModelOut:
    calibration = model.detector.calibration
    return ModelOut(
        name=model.name,
        version=model.bundle.version,
        digest=model.bundle.digest,
        is_default=model.name == default,
        canvas=model.config.preprocess.canvas,
        false_alarm_rate=calibration.false_alarm_rate,
        threshold=calibration.threshold,
        calibration_images=len(calibration.images.scores),
        calibration_groups=calibration.images.groups,
        smallest_false_alarm_rate=calibration.images.smallest_rate,
    )
