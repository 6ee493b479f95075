"""`POST /v1/models/{name}:preview`: what another threshold or region would do."""

from typing import Annotated

from fastapi import APIRouter, Depends

from anomaly.calibration import Calibration
from anomaly.cost import Stakes, cheapest
from service.concurrency import in_thread
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.inference.served_model import ServedModel
from service.recalibration.calibrator import CalibrationRequest, Preview
from service.recalibration.reviewer import Judged, Outlook
from service.routes.calibration import roi_of
from service.schemas.calibration import (
    PreviewDefectsOut,
    PreviewIn,
    PreviewOut,
    PreviewPartsOut,
    PreviewReviewOut,
    StakesIn,
)
from service.state import AppState, app_state

router = APIRouter(tags=["models"])

_MOST_IDS = 50
_NOT_RECORDED = (
    "This service keeps no results (MASKLINE_RECORD=off), so that nothing can be said of parts "
    "that it inspected, or of confirmed defects."
)
_NOT_DRAWN = (
    "No synthetic defects were scored by this calibration, so that nothing is said of what it "
    "catches; 'maskline calibrate' scores some."
)


@router.post(
    "/v1/models/{name}:preview",
    dependencies=[Depends(needs(Role.OPERATE))],
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=SECURED,
)
async def preview(
    name: str, preview_in: PreviewIn, parts: Annotated[AppState, Depends(app_state)]
) -> PreviewOut:
    """Say what another threshold, rate or region would do; nothing is saved, staged or switched.

    It judges the newest kept results and the confirmed defects again. `:calibrate` makes it so.
    """
    calibrator = parts.calibrator
    model = await parts.registry.acquire(name)
    roi = await in_thread(calibrator.inspector.parsers, lambda: roi_of(preview_in.roi))
    request = CalibrationRequest(
        preview_in.false_alarm_rate,
        warn_rate=None,
        camera=preview_in.camera,
        roi=roi,
        changes_roi=preview_in.roi is not None,
        threshold=preview_in.threshold,
    )
    stakes = None if preview_in.stakes is None else _stakes(preview_in.stakes)
    previewed = await calibrator.preview(model, request, preview_in.limit, stakes=stakes)
    return _out(model, preview_in.camera, previewed)


def _stakes(stakes_in: StakesIn) -> Stakes:
    return Stakes(stakes_in.escape_cost, stakes_in.false_alarm_cost, stakes_in.defect_rate)


def _out(model: ServedModel, camera: str | None, previewed: Preview) -> PreviewOut:
    calibration, outlook = previewed.calibration, previewed.outlook
    messages = list(previewed.statement.messages)
    if calibration.synthetic is None:
        messages.append(_NOT_DRAWN)
    if outlook is None:
        messages.append(_NOT_RECORDED)
    return PreviewOut(
        model=model.name,
        version=model.bundle.version,
        camera=camera,
        threshold=calibration.threshold,
        warn_threshold=calibration.warn_threshold,
        doubtful_above=_doubtful_above(calibration),
        mode=calibration.mode,
        trade_off=previewed.trade_off,
        costs=list(previewed.costs),
        cheapest_rate=cheapest(previewed.costs).trade_off.rate if previewed.costs else None,
        roi_share=None if calibration.roi is None else calibration.roi.share,
        normals=previewed.normals,
        review=None if outlook is None else _review_out(outlook),
        parts=None if outlook is None else _parts_out(outlook),
        defects=None if outlook is None else _defects_out(outlook),
        messages=messages,
    )


def _doubtful_above(calibration: Calibration) -> float | None:
    if calibration.warn_rate is None:
        return None
    return calibration.threshold_of(calibration.images, calibration.warn_rate)


def _parts_out(outlook: Outlook) -> PreviewPartsOut:
    latest = sorted(outlook.latest, key=lambda item: item.result.inspected_at, reverse=True)
    results = [judged.result for judged in latest]
    return PreviewPartsOut(
        result_id=[result.result_id for result in results],
        score=[judged.score for judged in latest],
        verdict=[result.verdict for result in results],
        calibrated_verdict=[result.calibrated_verdict for result in results],
        feedback=[outlook.last_kinds.get(result.result_id) for result in results],
        inspected_at=[result.inspected_at for result in results],
    )


def _defects_out(outlook: Outlook) -> PreviewDefectsOut:
    judged = [*outlook.defects.judged, *outlook.missed.judged]
    return PreviewDefectsOut(
        result_id=[case.result_id for case in judged],
        score=[case.score for case in judged if case.score is not None],
        feedback=[case.defect.kind for case in judged],
        must_be_rejected=[case.must_be_rejected for case in judged],
    )


def _review_out(outlook: Outlook) -> PreviewReviewOut:
    def ids(judged: list[Judged]) -> list[str]:
        return [item.result.result_id for item in judged[:_MOST_IDS]]

    return PreviewReviewOut(
        **outlook.review.model_dump(),
        to_reject_ids=ids([judged for judged in outlook.latest if judged.is_to_reject]),
        to_pass_ids=ids([judged for judged in outlook.latest if judged.is_to_pass]),
    )
