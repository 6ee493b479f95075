"""DetectAnomalies in the shape of Amazon Lookout for Vision, which was switched off.

An AWS client pointed here goes on working: the project is the model's name, the model version is
not looked at, the access key id is one of our API keys (its signature is not checked). `Confidence`
is 1 - p for an anomalous part and p for a normal one, p being the share of normal parts at least as
anomalous.
"""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from anomaly.heatmap import anomalous_pixels, encode_png
from anomaly.types import Detection
from record.result import JsonObject
from service.heatmaps import to_base64
from service.http.answering import detect_request
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.inspector import Inspector
from service.schemas.scoring import ScoreQuery
from service.state import inspector

router = APIRouter(tags=["lookout"])

_COLOUR = (0x23, 0xA4, 0x36)  # of anomalous pixels in the mask; the background is white
_RESPONSES = problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY: JsonObject = {
    **SECURED,
    "requestBody": {"required": True, "content": {"image/jpeg": _IMAGE, "image/png": _IMAGE}},
}


class PixelAnomaly(BaseModel):
    """How much of the image a kind of pixel covers."""

    TotalPercentageArea: float
    Color: str


class Anomaly(BaseModel):
    """`background` or `anomaly`."""

    Name: str
    PixelAnomaly: PixelAnomaly


class DetectAnomalyResult(BaseModel):
    """What was found."""

    Source: dict[str, str]
    IsAnomalous: bool
    Confidence: float
    Anomalies: list[Anomaly]
    AnomalyMask: str


class DetectAnomaliesResponse(BaseModel):
    """The answer."""

    DetectAnomalyResult: DetectAnomalyResult


@router.post(
    "/2020-11-20/projects/{project}/models/{model_version}/detect",
    dependencies=[Depends(needs(Role.SCORE))],
    responses=_RESPONSES,
    openapi_extra=_BODY,
)
async def detect_anomalies(
    request: Request,
    project: str,
    model_version: str,
    inspector: Annotated[Inspector, Depends(inspector)],
) -> DetectAnomaliesResponse:
    """Inspect one JPEG or PNG."""
    inspection = await detect_request(inspector, request, ScoreQuery(model=project, heatmap="none"))
    detection = inspection.detection
    result = await inspector.heatmaps.draw(lambda: _result(detection), detection.placement.source)
    return DetectAnomaliesResponse(DetectAnomalyResult=result)


def _result(detection: Detection) -> DetectAnomalyResult:
    mask = anomalous_pixels(detection.anomaly_map, detection.placement, detection.map_threshold)
    if not detection.is_anomalous:
        mask[:] = False
    share = float(mask.mean())
    picture = np.full((*mask.shape, 3), 255, np.uint8)
    picture[mask] = _COLOUR
    parts = [
        ("background", 1 - share, "#FFFFFF"),
        ("anomaly", share, "#{:02X}{:02X}{:02X}".format(*_COLOUR)),
    ]
    return DetectAnomalyResult(
        Source={"Type": "direct"},
        IsAnomalous=detection.is_anomalous,
        Confidence=1 - detection.p_value if detection.is_anomalous else detection.p_value,
        Anomalies=[
            Anomaly(Name=name, PixelAnomaly=PixelAnomaly(TotalPercentageArea=area, Color=colour))
            for name, area, colour in parts
            if area
        ],
        AnomalyMask=to_base64(encode_png(picture)),
    )
