"""Kept images and evidence to what a person looks at, and back to what a calibration judges."""

import io
from collections.abc import Mapping
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from anomaly.heatmap import encode_jpeg, overlay, picture_size
from anomaly.image import FORMATS, decode_image
from anomaly.types import Detection, Placement, Region
from service.errors import NothingKept

T = TypeVar("T")
StoredEvidence = Mapping[str, np.ndarray]


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


def heatmap_of(image: bytes, evidence: StoredEvidence, row: dict[str, Any]) -> bytes:
    """Draw a stored map and its regions over the stored image, as JPEG."""
    small, placement = evidence["map"].astype(np.float32), placement_of(evidence)
    height, width = placement.canvas
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    detection = Detection(
        pred_score=row["score"],
        score_std=row["score_std"],
        p_value=row["p_value"],
        patch_scores=small,
        anomaly_map=np.asarray(enlarged, np.float32),
        placement=placement,
        map_threshold=float(evidence["map_threshold"][0]),
        regions=tuple(Region(**region) for region in row["regions"]),
    )
    white = int(evidence["white_level"][0])
    half = min(picture_size(placement.source)) // 2  # a JPEG is reduced to no less than twice that
    return encode_jpeg(overlay(decode_image(image, canvas=half), detection, white))


def placement_of(evidence: StoredEvidence) -> Placement:
    """Where the image lay on the model's canvas."""
    h, w, canvas_h, canvas_w, *box = (int(value) for value in evidence["placement"])
    top, left, bottom, right = box
    return Placement((h, w), (canvas_h, canvas_w), (top, left, bottom, right))


def weights_of(evidence: StoredEvidence) -> str:
    """Digest of the weights that gathered the evidence."""
    return evidence["weights"].tobytes().hex()
