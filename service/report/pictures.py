"""Small pictures of the worst parts: the kept image with the map over it."""

import io

from PIL import Image

from record.result import Result
from service.evidence import StoredEvidence
from service.results.evidence import heatmap_of

MOST_PICTURES = 12
_SIDE_PX = 320
_QUALITY = 80


def small_picture(image: bytes, evidence: StoredEvidence, result: Result) -> bytes:
    """Draw a result's map over its image, no side longer than 320 pixels, as JPEG."""
    drawn = heatmap_of(image, evidence, result)
    with Image.open(io.BytesIO(drawn), formats=("JPEG",)) as picture:
        picture.draft("RGB", (2 * _SIDE_PX, 2 * _SIDE_PX))
        picture.thumbnail((_SIDE_PX, _SIDE_PX))
        small = io.BytesIO()
        picture.save(small, "JPEG", quality=_QUALITY)
    return small.getvalue()
