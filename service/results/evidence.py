"""Kept images and evidence to what a person looks at, and back to what a calibration judges."""

import io
from typing import TypeVar

import numpy as np
from PIL import Image

from anomaly.heatmap import (
    canvas_map,
    encode_jpeg,
    overlay,
    picture_size,
    region_level,
    sharpened,
)
from anomaly.image import FORMATS, decode_image
from anomaly.types import Detection, Region
from record.result import Result
from service.errors import NothingKept
from service.evidence import StoredEvidence

T = TypeVar("T")


def needed(content: T | None, result_id: str) -> T:
    """Return what is kept of a result; raises `NothingKept` where nothing is."""
    if content is None:
        raise NothingKept(
            f"nothing is kept of result {result_id!r}: not by the policy (MASKLINE_KEEP), or "
            "no longer"
        )
    return content


def media_type(image: bytes) -> str:
    """Say what kind of image these bytes are."""
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        return opened.get_format_mimetype() or "application/octet-stream"


def heatmap_of(image: bytes, evidence: StoredEvidence, result: Result) -> bytes:
    """Draw a stored map and its regions over the stored image, as JPEG."""
    small, placement = evidence.map.astype(np.float32), evidence.placement
    anomaly_map = canvas_map(small, placement.canvas)
    if evidence.detail is not None:
        level = region_level(anomaly_map, evidence.map_threshold)
        anomaly_map = sharpened(anomaly_map, evidence.detail, level)
    detection = Detection(
        pred_score=result.score,
        score_std=result.score_std,
        p_value=result.p_value,
        patch_scores=small,
        anomaly_map=anomaly_map,
        placement=placement,
        map_threshold=evidence.map_threshold,
        regions=tuple(Region(**region) for region in result.regions),
    )
    half = min(picture_size(placement.source)) // 2  # a JPEG is reduced to no less than twice that
    return encode_jpeg(overlay(decode_image(image, canvas=half), detection, evidence.white_level))
