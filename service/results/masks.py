"""Which pixels of a part are defective, as people mark them: drawn, or taken over from the map.

A mask is stored as 8-bit grey PNG, 0 or 255, in the size of the upright picture, beside the image
for good. Who put it, when and how stands in the file itself (`Author`, `Creation Time`, `Comment`):
the three go wherever it is copied, and are never those of another mask. It knows no HTTP.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ImageError
from anomaly.heatmap import anomalous_pixels, canvas_map, encode_grey, region_level
from anomaly.image import decode_image
from anomaly.limits import ImageLimits
from anomaly.png import png_size, read_marks, with_texts
from anomaly.types import FloatArray
from record.keep import Keeper, KeptStore
from record.result import Result
from service.errors import MaskInvalid, MaskMissing, StorageFailed
from service.evidence import StoredEvidence
from service.results.evidence import drawn_map, needed

Marks = NDArray[np.bool_]
Origin = Literal["drawn", "accepted"]
READING_BYTES_PER_PX = 12  # what reading a mask holds: 16 bits of four channels, and what is marked
_MOST_RATIO = 25_000  # of decoded to encoded bytes: one bit per pixel, all of one value
_READ_FOR = 8  # the side of a canvas for which a picture is decoded only to know its size


def picture_size_of(image: bytes, evidence: StoredEvidence | None) -> tuple[int, int]:
    """Say how large a stored picture is as it is seen, upright, (H, W)."""
    if evidence is not None:
        return evidence.placement.source
    return decode_image(image, canvas=_READ_FOR).source_size


def check_header(data: bytes, size: tuple[int, int]) -> None:
    """Raise `MaskInvalid` where these bytes are no PNG for a picture of (H, W); decodes no pixel.

    A mask may be turned by its own EXIF: its sides may be exchanged.
    """
    try:
        height, width = png_size(data)
    except ImageError as error:
        raise MaskInvalid(f"{error}; send the mask as PNG, as large as the picture") from error
    if sorted((height, width)) != sorted(size):
        raise _other_size((height, width), size)


def read_mask(data: bytes, size: tuple[int, int]) -> Marks:
    """Read what somebody marked on a picture of (H, W), True where the part is defective.

    Raises `MaskInvalid`.
    """
    check_header(data, size)
    limits = ImageLimits(size[0] * size[1], 1, _MOST_RATIO)
    try:
        marks = read_marks(data, limits)
    except ImageError as error:
        raise MaskInvalid(f"the mask cannot be read: {error}") from error
    if marks.shape != size:
        raise _other_size(marks.shape, size)
    if not marks.any():
        raise MaskInvalid(
            "the mask marks nothing: every pixel is black or transparent. Mark what is defective, "
            "or remove the mask with DELETE"
        )
    return marks


def accepted_mask(evidence: StoredEvidence, result: Result, indexes: Sequence[int] | None) -> Marks:
    """Mark what the map says of the regions of these indexes (None: all), (H, W) of the picture.

    The map above the level that drew the regions, inside their boxes. Raises `MaskInvalid` where
    the result has no such region.
    """
    boxes = _boxes(result, indexes)
    fine = drawn_map(evidence)
    level = region_level(fine, evidence.map_threshold)
    marks = np.zeros(evidence.placement.source, np.bool_)
    _mark(marks, boxes, fine, level=level, evidence=evidence)
    empty = [box for box in boxes if not marks[_window(box)].any()]
    if empty:  # what the detail does not see, the answer found on the plain map
        plain = canvas_map(evidence.map.astype(np.float32), evidence.placement.canvas)
        _mark(marks, empty, plain, level=level, evidence=evidence)
    if not marks.any():
        raise MaskInvalid("nothing of these regions is above the map's level; draw a mask instead")
    return marks


def encoded_mask(marks: Marks, origin: Origin, author: str | None) -> bytes:
    """Write a mask as it is stored; `author` is the API key's name."""
    texts = {
        "Creation Time": datetime.now(UTC).isoformat(timespec="seconds"),
        "Comment": origin,
    }
    if author is not None:
        texts["Author"] = author
    return with_texts(encode_grey(marks.astype(np.uint8) * 255), texts)


class Masks:
    """Stores and reads masks; `keeper` is None where no images are kept."""

    def __init__(self, keeper: Keeper | None) -> None:
        self._keeper = keeper

    async def put(self, result: Result, mask: bytes) -> None:
        """Store a mask, and keep its result's image for good.

        Raises `NothingKept`, or `StorageFailed` with nothing half written.
        """
        keeper = needed(self._keeper, result.result_id)

        def work() -> bool:
            keeper.pin(result.result_id, result.inspected_at)
            return keeper.store.put_mask(result.result_id, mask)

        try:
            is_there = await asyncio.to_thread(work)
        except OSError as error:
            raise StorageFailed(
                f"the mask cannot be stored ({error.strerror or error}); the one before stays. "
                "Free some space, or make the place writable"
            ) from error
        needed(is_there or None, result.result_id)

    async def read(self, result: Result) -> bytes:
        """Return the mask of a result, as PNG; raises `MaskMissing`."""
        store = self._store_of(result)
        mask = None if store is None else await asyncio.to_thread(store.mask, result.result_id)
        if mask is None:
            raise _missing(result)
        return mask

    async def remove(self, result: Result) -> None:
        """Remove the mask of a result; raises `MaskMissing`."""
        store = self._store_of(result)
        if store is None or not await asyncio.to_thread(store.remove_mask, result.result_id):
            raise _missing(result)

    async def has(self, result: Result) -> bool:
        """Whether a result has a mask."""
        store = self._store_of(result)
        return store is not None and await asyncio.to_thread(store.has_mask, result.result_id)

    def _store_of(self, result: Result) -> KeptStore | None:
        return self._keeper.store if self._keeper is not None and result.kept else None


def _boxes(result: Result, indexes: Sequence[int] | None) -> list[tuple[int, int, int, int]]:
    count = len(result.regions)
    if not count:
        raise MaskInvalid("this result has no regions that could be accepted; draw a mask instead")
    numbers = range(count) if indexes is None else indexes
    if wrong := [number for number in numbers if not 0 <= number < count]:
        raise MaskInvalid(
            f"this result has no region {wrong[0]}: it has {count}, from 0 to {count - 1}"
        )
    return [tuple(result.regions[number]["bbox"]) for number in numbers]


def _window(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    x, y, width, height = box
    return slice(y, y + height), slice(x, x + width)


def _mark(
    marks: Marks,
    boxes: Sequence[tuple[int, int, int, int]],
    anomaly_map: FloatArray,
    *,
    level: float,
    evidence: StoredEvidence,
) -> None:
    """Mark what of a map on the canvas is above a level inside the boxes."""
    above = anomalous_pixels(anomaly_map, evidence.placement, level).view(np.uint8)
    height, width = marks.shape
    if above.shape != marks.shape:  # a large picture's map is drawn in a half, a quarter …
        enlarged = cv2.resize(above, (width, height), interpolation=cv2.INTER_NEAREST)
        above = np.asarray(enlarged, np.uint8)
    for box in boxes:
        window = _window(box)
        marks[window] |= above[window] > 0


def _other_size(size: tuple[int, ...], expected: tuple[int, int]) -> MaskInvalid:
    return MaskInvalid(
        f"the mask is {size[1]}×{size[0]} px and its picture {expected[1]}×{expected[0]} px, "
        "upright; send it as large as the picture"
    )


def _missing(result: Result) -> MaskMissing:
    return MaskMissing(
        f"nobody marked what is defective on result {result.result_id!r}; PUT a mask, or accept "
        "its regions (:accept)"
    )
