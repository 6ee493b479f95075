"""DetectAnomalies in the shape of Amazon Lookout for Vision, which was switched off.

An AWS client pointed here goes on working: the project is the model's name, the model version is
not looked at, the access key id is one of our API keys (its signature is not checked). `Confidence`
is 1 - p for an anomalous part and p for a normal one, p being the share of normal parts at least as
anomalous.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from numpy.typing import NDArray
from pydantic import BaseModel

from anomaly.heatmap import anomalous_pixels, encode_png
from anomaly.kinds import UNKNOWN
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

_ANOMALY = "anomaly"  # what nobody named
_COLOURS = {_ANOMALY: (0x23, 0xA4, 0x36)}  # in the mask; the background is white
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
    """`background`, a kind of defect that labelled parts taught, or `anomaly`."""

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
    picture = np.full((*mask.shape, 3), 255, np.uint8)
    parts = [("background", 1 - float(mask.mean()), "#FFFFFF")]
    for name, within in _by_kind(detection, mask):
        colour = _COLOURS.get(name) or _colour_of(name)
        picture[within] = colour
        parts.append((name, float(within.mean()), "#{:02X}{:02X}{:02X}".format(*colour)))
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


def _by_kind(
    detection: Detection, mask: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Part anomalous pixels by the kind of the region around them, the strongest first.

    Pixels around which no region is, and those of regions without a name, are `anomaly`.
    """
    scale = mask.shape[0] / detection.placement.source[0]
    left = mask.copy()
    by_kind: dict[str, NDArray[np.bool_]] = {}
    for region in detection.regions:
        if region.kind in (None, UNKNOWN):
            continue
        x, y, width, height = region.bbox
        rows = slice(int(y * scale), math.ceil((y + height) * scale))
        columns = slice(int(x * scale), math.ceil((x + width) * scale))
        within = by_kind.setdefault(region.kind or "", np.zeros_like(mask))
        within[rows, columns] |= left[rows, columns]
        left[rows, columns] = False
    yield from ((name, within) for name, within in by_kind.items() if within.any())
    if left.any():
        yield _ANOMALY, left


def _colour_of(name: str) -> tuple[int, int, int]:
    """Return a colour that is the name's own wherever it appears, neither white nor black."""
    red, green, blue = hashlib.sha256(name.encode()).digest()[:3]
    return red % 224 + 16, green % 224 + 16, blue % 224 + 16
