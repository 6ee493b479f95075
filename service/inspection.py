"""One request from bytes to answer: read, decode, queue, inference, encode.

The event loop only reads and writes; decoding, placing and picture encoding run in a bounded thread
pool, inference in the engine's threads.
"""

import asyncio
import base64
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from starlette.requests import Request

from anomaly.detector import judge
from anomaly.heatmap import encode_jpeg, encode_png, grey_png, overlay
from anomaly.image import ImageLimits, decode_image
from anomaly.inputs import input_statistics
from anomaly.preprocess import place
from anomaly.types import Detection, FloatArray, RgbImage
from service.batching import Priority
from service.body import read_image
from service.drift import Drifts
from service.engine import Engine, Work
from service.errors import BodyTooSlow
from service.found import Inspection, Source
from service.metrics import Metrics
from service.recording import Recording, digest_of
from service.registry import ServedModel
from service.repeats import Lookup, RepeatKey, Repeats, nothing_stored
from service.schemas import HeatmapKind, HeatmapOut, ModelRef, ScoreOut, ScoreQuery
from service.settings import Settings
from service.waiting import while_wanted

T = TypeVar("T")
_OWN_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Inspector:
    """What a request passes through."""

    engine: Engine
    metrics: Metrics
    settings: Settings
    pool: ThreadPoolExecutor
    drifts: Drifts
    recording: Recording | None = None
    repeats: Repeats = field(default_factory=Repeats)

    async def inspect(self, request: Request, query: ScoreQuery) -> ScoreOut:
        """Answer one request: read, decode, queue, infer, encode.

        A request that repeats an idempotency key is answered with what the first one was.
        """
        caller = getattr(request.state, "key", None)
        return await self._asked(request, query, partial(self.inspect_once, caller=caller))

    async def inspect_raw(self, request: Request, query: ScoreQuery) -> Inspection:
        """Do the same up to the detection, for answers of another shape."""
        return await self._asked(request, query, self.detect)

    async def _asked(
        self,
        request: Request,
        query: ScoreQuery,
        answer: Callable[[bytes, ScoreQuery, float, dict[str, float]], Awaitable[T]],
    ) -> T:
        """Read the request's image and answer it while somebody waits."""
        timings: dict[str, float] = {}
        deadline = self.deadline_of(query)
        if query.idempotency_key is None:  # a repeat needs no turn of the device
            self.engine.admit(Priority[query.priority.upper()], deadline)  # before anything is read
        data = await self._read(request, query, timings)
        async with while_wanted(request, deadline, timings):
            return await answer(data, query, deadline, timings)

    async def _read(self, request: Request, query: ScoreQuery, timings: dict[str, float]) -> bytes:
        self.engine.registry.find(query.model)  # an unknown name is told before the body is read
        with self.metrics.timed("read", timings):
            return await self.in_time(read_image(request, self.settings.max_body_bytes))

    async def inspect_once(
        self,
        data: bytes,
        query: ScoreQuery,
        deadline: float,
        timings: dict[str, float],
        *,
        caller: str | None,
        item: int | None = None,
    ) -> ScoreOut:
        """Answer for one image, and once for all requests that repeat its idempotency key.

        `item` is its number in a batch. An empty body is refused whatever its key.
        """
        if query.idempotency_key is None or not data:
            return await self.inspect_image(data, query, deadline, timings)
        named = query.model_copy(update={"model": self.engine.registry.find(query.model).name})
        sha256 = await self._in_pool(partial(digest_of, data))
        repeat = RepeatKey.of(named, caller=caller, image_sha256=sha256, item=item)
        inspect = partial(self.inspect_image, data, query, deadline, timings, repeat)
        stored: Lookup = nothing_stored if self.recording is None else self.recording.repeated
        return await self.repeats.once(repeat, inspect, stored)

    async def inspect_image(
        self,
        source: Source,
        query: ScoreQuery,
        deadline: float,
        timings: dict[str, float],
        repeat: RepeatKey | None = None,
    ) -> ScoreOut:
        """Answer for one image; `timings` gets each stage's seconds as it ends."""
        found = await self.detect(source, query, deadline, timings, repeat)
        with self.metrics.timed("encode", timings):
            heatmap = await self._heatmap(found, query.heatmap)
        return ScoreOut.of(
            found.detection,
            query,
            model=ModelRef.of(found.model, query.camera),
            heatmap=heatmap,
            result_id=found.result_id,
            timings=timings,
        )

    async def detect(
        self,
        source: Source,
        query: ScoreQuery,
        deadline: float,
        timings: dict[str, float],
        repeat: RepeatKey | None = None,
    ) -> Inspection:
        """Decode, queue and infer one image, and judge it as this request wants."""
        model = await self.engine.registry.acquire(query.model)
        priority = Priority[query.priority.upper()]
        with self.engine.place(model, priority, deadline) as kept:
            with self.metrics.timed("decode", timings):
                work, inputs, sha256 = await self._in_pool(
                    lambda: self._work(source, model, query.camera)
                )
            outcome = await self.engine.detect(model, work, kept)
        self.metrics.observe_stage(
            "queue", outcome.queue_s, timings, ended_s_ago=outcome.inference_s
        )
        self.metrics.observe_stage("inference", outcome.inference_s, timings)
        own = outcome.result  # judged by the calibration: what a request asks for bends no metric
        detection = await self._as_asked(own, model, query)
        self.metrics.observe_detection(model.name, query.camera, own)
        self.drifts.add(model, query.camera, own, inputs)
        found = Inspection(model, source, detection, uuid.uuid4().hex, inputs, own.verdict)
        if self.recording is not None:
            self.recording.keep(found, query, timings=timings, image_sha256=sha256, repeat=repeat)
        return found

    async def look(self, source: Source, model: ServedModel, camera: str | None) -> Inspection:
        """Inspect one image for our own purposes: at low priority, neither recorded nor counted."""
        deadline = time.monotonic() + _OWN_DEADLINE_S
        with self.engine.place(model, Priority.LOW, deadline) as kept:
            work, inputs, _ = await self._in_pool(lambda: self._work(source, model, camera))
            outcome = await self.engine.detect(model, work, kept)
        found = outcome.result
        return Inspection(model, source, found, "", inputs, found.verdict)

    def deadline_of(self, query: ScoreQuery) -> float:
        """When a request that begins now must be answered, on the clock of `time.monotonic`."""
        return time.monotonic() + (query.deadline_ms or self.settings.max_wait_ms) / 1000

    async def in_time(self, reading: Awaitable[T]) -> T:
        """Read a body, but not for ever; raises `BodyTooSlow`."""
        limit = self.settings.read_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await reading
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {limit:g} s") from None

    def _work(
        self, source: Source, model: ServedModel, camera: str | None
    ) -> tuple[Work, FloatArray, str]:
        config = model.config.preprocess
        canvas, placement = place(self._decode(source, config.canvas), config)
        sha256 = "" if self.recording is None else digest_of(source)
        return Work(canvas, placement, camera), input_statistics(canvas), sha256

    def _decode(self, source: Source, canvas: int | None = None) -> RgbImage:
        if isinstance(source, RgbImage):
            return source
        return decode_image(source, ImageLimits(self.settings.max_image_pixels), canvas=canvas)

    async def _heatmap(self, found: Inspection, kind: HeatmapKind) -> HeatmapOut | None:
        if kind == "none":
            return None
        if kind == "float16":  # two microseconds: not worth a thread
            return float16_heatmap(found.detection)
        return await self._in_pool(lambda: self._picture(found, kind))

    def _picture(self, found: Inspection, kind: HeatmapKind) -> HeatmapOut:
        """The map as a picture in the size of the image that was sent."""
        detection = found.detection
        if kind == "png":
            png = grey_png(detection.anomaly_map, detection.map_threshold, detection.placement)
            return _heatmap_out(kind, "image/png", png, detection.placement.source, detection)
        whole = self._decode(found.source)  # once more: the model's may be smaller
        picture = overlay(whole, detection, found.model.config.preprocess.white_level)
        if kind == "overlay_png":
            return _heatmap_out(kind, "image/png", encode_png(picture), whole.size, detection)
        return _heatmap_out(kind, "image/jpeg", encode_jpeg(picture), whole.size, detection)

    async def _as_asked(
        self, detection: Detection, model: ServedModel, query: ScoreQuery
    ) -> Detection:
        """Apply this request's own threshold or false-alarm rate, if it has one."""
        if query.threshold is None and query.false_alarm_rate is None:
            return detection
        calibration = model.detector.calibration_of(query.camera)
        if query.false_alarm_rate is not None:
            calibration = calibration.at_rate(query.false_alarm_rate)
        threshold = calibration.threshold if query.threshold is None else query.threshold
        return await self._in_pool(lambda: judge(detection, threshold, calibration.map_threshold))

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


def float16_heatmap(detection: Detection) -> HeatmapOut:
    """The patch grid as little-endian float16, in the score's own units."""
    grid = np.ascontiguousarray(detection.patch_scores, dtype="<f2")
    return _heatmap_out(
        "float16", "application/octet-stream", grid.tobytes(), grid.shape, detection
    )


def _heatmap_out(
    kind: HeatmapKind, media_type: str, data: bytes, size: tuple[int, ...], detection: Detection
) -> HeatmapOut:
    return HeatmapOut(
        kind=kind,
        media_type=media_type,
        data=base64.b64encode(data).decode("ascii"),
        height=size[0],
        width=size[1],
        threshold=detection.map_threshold,
    )
