"""Kept images and evidence to what a person looks at, and back to what a calibration judges."""

import io
from typing import TypeVar

import numpy as np
from PIL import Image

from anomaly.encoding import read_header
from anomaly.heatmap import (
    as_uint8,
    canvas_map,
    encode_jpeg,
    grey_png,
    overlay,
    picture_size,
    region_level,
    sharpened,
    thumbnail_size,
)
from anomaly.image import FORMATS, decode_image
from anomaly.types import Detection, FloatArray, Region
from record.result import Result
from service.errors import NothingKept
from service.evidence import StoredEvidence

T = TypeVar("T")
_DEEP_WHITE = 65535  # of more than 8 bits, where nobody declared it


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
    half = min(picture_size(evidence.placement.source)) // 2  # a JPEG is reduced to twice that
    decoded = decode_image(image, canvas=half)
    return encode_jpeg(overlay(decoded, _detection(evidence, result), evidence.white_level))


def map_of(evidence: StoredEvidence) -> bytes:
    """Draw a stored map alone, as 8-bit grey PNG on the fixed scale (`anomaly.heatmap`)."""
    return grey_png(drawn_map(evidence), evidence.map_threshold, evidence.placement)


def thumbnail_of(
    image: bytes, evidence: StoredEvidence | None, side: int, result: Result | None = None
) -> bytes:
    """Draw a small picture of the stored image, as JPEG; with the map where a result is given.

    Deep images need their evidence, which knows what was white.
    """
    decoded = decode_image(image, canvas=max(1, side // 2))
    size = thumbnail_size(decoded.source_size, side)
    if evidence is None:
        return encode_jpeg(as_uint8(decoded, _DEEP_WHITE, size))
    if result is None:
        return encode_jpeg(as_uint8(decoded, evidence.white_level, size))
    return encode_jpeg(overlay(decoded, _detection(evidence, result), evidence.white_level, size))


def size_of(image: bytes) -> tuple[int, int]:
    """Say how large a stored image is, (H, W) as it lies in the file."""
    header = read_header(image)
    return (0, 0) if header is None else header.size


def drawn_map(evidence: StoredEvidence) -> FloatArray:
    """Return the map as the answer had it, as sharp, (H, W) of the canvas."""
    anomaly_map = canvas_map(evidence.map.astype(np.float32), evidence.placement.canvas)
    if evidence.detail is None:
        return anomaly_map
    level = region_level(anomaly_map, evidence.map_threshold)
    return sharpened(anomaly_map, evidence.detail, level)


def _detection(evidence: StoredEvidence, result: Result) -> Detection:
    return Detection(
        pred_score=result.score,
        score_std=result.score_std,
        p_value=result.p_value,
        patch_scores=evidence.map.astype(np.float32),
        anomaly_map=drawn_map(evidence),
        placement=evidence.placement,
        map_threshold=evidence.map_threshold,
        regions=tuple(Region(**region) for region in result.regions),
    )
