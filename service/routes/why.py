"""`GET /v1/results/{id}/why` and `/expected`: why a part was rejected."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from anomaly.explanation import Explanation
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.results.recording import Recording
from service.routes.results import recording
from service.schemas.why import (
    CellOut,
    EvidenceOut,
    ExpectedOut,
    Kind,
    NearOut,
    RankOut,
    TypicalOut,
    WhyOut,
)
from service.state import AppState, app_state
from service.why.comparison import Comparison, Near
from service.why.explainer import Typical, Why

router = APIRouter(tags=["results"])

_RESPONSES = problems(401, 403, 404, 409, 413, 422, 429, 500, 503, 504)
_MAY_VIEW = [Depends(needs(Role.VIEW))]
_KINDS: dict[str, Kind] = {
    "masked": "prediction",
    "memory": "memory",
    "repair": "repair",
    "labelled": "labels",
}

_Recording = Annotated[Recording, Depends(recording)]
_Parts = Annotated[AppState, Depends(app_state)]


@router.get(
    "/v1/results/{result_id}/why",
    dependencies=_MAY_VIEW,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def read_why(result_id: str, record: _Recording, parts: _Parts) -> WhyOut:
    """Say which evidence made a part's score, how rare it is, and which normal parts are nearest.

    The first answer takes a second or so, at low priority; it is remembered for a while.
    """
    return _out(await parts.explainer.why(record, result_id))


@router.get(
    "/v1/results/{result_id}/expected",
    dependencies=_MAY_VIEW,
    responses={200: {"content": {"image/jpeg": {}}}, **_RESPONSES},
    openapi_extra=SECURED,
    response_class=Response,
)
async def read_expected(result_id: str, record: _Recording, parts: _Parts) -> Response:
    """Return the part's picture as it was expected where it stands out.

    The masked autoencoder predicts what belongs there; the nearest patches of kept normal parts
    show it. `why` says whose they are, and how near.
    """
    picture = await parts.explainer.expected(record, result_id)
    return Response(picture, media_type="image/jpeg")


def _out(why: Why) -> WhyOut:
    result, model, explanation = why.result, why.model, why.explanation
    comparison = why.comparison
    return WhyOut(
        result_id=result.result_id,
        model=model.name,
        version=model.bundle.version,
        same_calibration=why.is_same_calibration,
        score=explanation.score,
        threshold=model.detector.calibration_of(result.camera).threshold,
        evidence=_evidence_out(explanation, why.families),
        normals=_typical_out(why.calibrated_on),
        p_value=RankOut(value=result.p_value, groups=why.rank.groups, as_high=why.rank.as_high),
        cells=[
            CellOut(box=cell.box, score=cell.score, kind=_KINDS[cell.family])
            for cell in explanation.cells
        ],
        neighbours=[] if comparison is None else [_near_out(n) for n in comparison.neighbours],
        expected=None if comparison is None else _expected_out(comparison),
        problem=why.problem,
    )


def _evidence_out(explanation: Explanation, families: dict[str, Typical]) -> list[EvidenceOut]:
    return [
        EvidenceOut(
            kind=_KINDS[family.family],
            score=family.score,
            weight=family.weight,
            contribution=family.contribution,
            share=family.share,
            normals=None
            if (typical := families.get(family.family)) is None
            else _typical_out(typical),
        )
        for family in explanation.families
    ]


def _expected_out(comparison: Comparison) -> ExpectedOut:
    return ExpectedOut(
        parts=[_near_out(near) for near in comparison.parts],
        distance=comparison.distance,
        usual_distance=comparison.usual_distance,
        is_good_match=comparison.is_good_match,
        share=comparison.share,
    )


def _typical_out(typical: Typical) -> TypicalOut:
    return TypicalOut(count=typical.count, median=typical.median, p95=typical.p95)


def _near_out(near: Near) -> NearOut:
    return NearOut(result_id=near.result_id, distance=near.distance)
