"""One inspection to one picture: the four kinds of heatmap."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from anomaly.heatmap import encode_jpeg, encode_png, grey_png, overlay, picture_size
from anomaly.image import ImageLimits, decode_image
from anomaly.types import Detection, RgbImage
from service.budget import Budget
from service.concurrency import in_thread
from service.inference.inspection import Inspection, Source
from service.schemas.scoring import HeatmapKind, HeatmapOut
from service.workers import WorkerPool

T = TypeVar("T")
_SMALL_PICTURE_PX = 4_000_000  # larger ones are drawn one at a time
_PICTURE_BYTES_PER_PX = 12  # the image, the picture, as OpenCV has it, and encoded
_PIECE_BYTES = 3 * 2**18  # a multiple of three, so that the pieces' base64 can be joined


@dataclass(frozen=True, slots=True)
class Heatmaps:
    """Draws pictures in the decoders' threads, large ones one after the other."""

    pool: WorkerPool
    budget: Budget
    max_image_pixels: int
    _drawing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def of(self, inspection: Inspection, kind: HeatmapKind) -> HeatmapOut | None:
        """Return the kind of heatmap that a request wants."""
        if kind == "none":
            return None
        if kind == "float16":  # two microseconds: not worth a thread
            return float16_heatmap(inspection.detection)
        source = inspection.detection.placement.source
        return await self.draw(lambda: self._picture(inspection, kind), source)

    async def draw(self, work: Callable[[], T], source: tuple[int, int]) -> T:
        """Draw a picture of an image of (H, W) in the pool; large ones one after the other.

        What it holds is counted but not refused: the part is inspected already.
        """
        height, width = picture_size(source)
        if height * width <= _SMALL_PICTURE_PX:
            return await in_thread(self.pool, work)

        def counted() -> T:
            with self.budget.open() as charge:
                charge.overdraw(_PICTURE_BYTES_PER_PX * height * width)
                return work()

        async with self._drawing:
            return await in_thread(self.pool, counted)

    def _picture(self, inspection: Inspection, kind: HeatmapKind) -> HeatmapOut:
        """The map as a picture, in the sent image's size or what `picture_size` makes of it."""
        detection = inspection.detection
        size = picture_size(detection.placement.source)
        if kind == "png":
            png = grey_png(detection.anomaly_map, detection.map_threshold, detection.placement)
            return _heatmap_out(kind, "image/png", png, size=size, detection=detection)
        # Once more: the model's may be smaller. A side of half of it is what a JPEG is reduced for.
        image = decoded(inspection.source, self.max_image_pixels, min(size) // 2)
        picture = overlay(image, detection, inspection.model.config.preprocess.white_level)
        if kind == "overlay_png":
            return _heatmap_out(
                kind, "image/png", encode_png(picture), size=size, detection=detection
            )
        return _heatmap_out(
            kind, "image/jpeg", encode_jpeg(picture), size=size, detection=detection
        )


def decoded(source: Source, max_pixels: int, canvas: int) -> RgbImage:
    """Decode what was sent, no larger than a canvas needs; what came decoded stays as it is."""
    if isinstance(source, RgbImage):
        return source
    return decode_image(source, ImageLimits(max_pixels), canvas=canvas)


def float16_heatmap(detection: Detection) -> HeatmapOut:
    """The patch grid as little-endian float16, in the score's own units."""
    limit = np.finfo(np.float16).max
    grid = np.ascontiguousarray(np.clip(detection.patch_scores, -limit, limit), dtype="<f2")
    return _heatmap_out(
        "float16", "application/octet-stream", grid.tobytes(), size=grid.shape, detection=detection
    )


def to_base64(data: bytes) -> str:
    """Encode in pieces: in one, no other thread of the interpreter would run meanwhile."""
    pieces = (data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES))
    return b"".join(map(base64.b64encode, pieces)).decode("ascii")


def _heatmap_out(
    kind: HeatmapKind, media_type: str, data: bytes, *, size: tuple[int, ...], detection: Detection
) -> HeatmapOut:
    return HeatmapOut(
        kind=kind,
        media_type=media_type,
        data=to_base64(data),
        height=size[0],
        width=size[1],
        threshold=detection.map_threshold,
    )
