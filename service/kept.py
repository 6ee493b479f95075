"""Kept images and evidence to what a person looks at, and back to what a calibration judges."""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anomaly.heatmap import encode_jpeg, overlay
from anomaly.image import FORMATS, decode_image
from anomaly.types import Detection, Placement, Region
from record.keep import Kept
from service.errors import NothingKept


def media_type(image: bytes) -> str:
    """Say what kind of image these bytes are."""
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        return opened.get_format_mimetype() or "application/octet-stream"


def heatmap_of(kept: Kept, row: dict[str, Any]) -> bytes:
    """Draw a stored map and its regions over the stored image, as JPEG. Raises `NothingKept`."""
    if kept.image is None:
        raise NothingKept(f"the image of result {kept.result_id!r} is not kept")
    small = kept.evidence["map"].astype(np.float32)
    placement = placement_of(kept)
    height, width = placement.canvas
    whole = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    detection = Detection(
        pred_score=row["score"],
        score_std=row["score_std"],
        p_value=row["p_value"],
        patch_scores=small,
        anomaly_map=np.asarray(whole, np.float32),
        placement=placement,
        map_threshold=float(kept.evidence["map_threshold"][0]),
        regions=tuple(Region(**region) for region in row["regions"]),
    )
    white = int(kept.evidence["white_level"][0])
    return encode_jpeg(overlay(decode_image(kept.image), detection, white))


def placement_of(kept: Kept) -> Placement:
    """Where the image lay on the model's canvas."""
    values = [int(value) for value in kept.evidence["placement"]]
    source, canvas, box = values[:2], values[2:4], values[4:]
    return Placement(
        (source[0], source[1]), (canvas[0], canvas[1]), (box[0], box[1], box[2], box[3])
    )
