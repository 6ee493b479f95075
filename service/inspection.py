"""One request from bytes to answer: read, decode, queue, inference, encode.

The event loop only reads and writes; decoding, placing and picture encoding run in a bounded thread
pool, inference in the engine's threads.
"""

import asyncio
import base64
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from starlette.requests import Request

from anomaly.detector import judge
from anomaly.encoding import Encoding, Header, encoding_of, read_header
from anomaly.familiarity import InputWarning, uncertified, unfamiliar
from anomaly.heatmap import encode_jpeg, encode_png, grey_png, overlay, picture_size
from anomaly.image import ImageLimits, decode_image
from anomaly.inputs import input_statistics
from anomaly.preprocess import place
from anomaly.types import Detection, FloatArray, RgbImage
from service.answers import is_short, write
from service.batching import Priority
from service.body import read_image
from service.budget import Budget, CountedRequest
from service.drift import Drifts
from service.engine import Engine, Work
from service.errors import BodyTooSlow, InferenceFailed
from service.found import Inspection, Source
from service.metrics import Metrics
from service.recording import Recording, digest_of
from service.registry import ServedModel
from service.repeats import Lookup, RepeatKey, Repeats, nothing_stored
from service.schemas import BatchOut, HeatmapKind, HeatmapOut, ModelRef, ScoreOut, ScoreQuery
from service.settings import Settings
from service.waiting import while_wanted
from service.workers import WorkerPool

T = TypeVar("T")
_OWN_DEADLINE_S = 600.0
_SMALL_PICTURE_PX = 4_000_000  # larger ones are drawn one at a time
_PICTURE_BYTES_PER_PX = 12  # the image, the picture, as OpenCV has it, and encoded
_PIECE_BYTES = 3 * 2**18  # a multiple of three, so that the pieces' base64 can be joined


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One image that is ready for inference, and what is known of it by then."""

    work: Work
    inputs: FloatArray
    encoding: Encoding
    warnings: tuple[InputWarning, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Inspector:
    """What a request passes through."""

    engine: Engine
    metrics: Metrics
    settings: Settings
    pool: WorkerPool
    parsers: WorkerPool
    budget: Budget
    drifts: Drifts
    recording: Recording | None = None
    repeats: Repeats = field(default_factory=Repeats)
    _drawing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

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
        with self.budget.open() as charge:
            counted = CountedRequest(request, charge)
            data = await self._read(counted, query, timings)
            async with while_wanted(request, deadline, timings):
                return await answer(data, query, deadline, timings)

    async def _read(
        self, request: CountedRequest, query: ScoreQuery, timings: dict[str, float]
    ) -> bytes:
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
        sha256 = await self.in_pool(partial(digest_of, data))
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
            warnings=found.warnings,
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
                prepared = await self.in_pool(lambda: self._prepare(source, model, query.camera))
            outcome = await self.engine.detect(model, prepared.work, kept)
        self.metrics.observe_stage(
            "queue", outcome.queue_s, timings, ended_s_ago=outcome.inference_s
        )
        self.metrics.observe_stage("inference", outcome.inference_s, timings)
        own = outcome.result  # judged by the calibration: what a request asks for bends no metric
        _require_finite(own)
        detection = await self._as_asked(own, model, query)
        self.metrics.observe_detection(model.name, query.camera, own)
        self.drifts.add(model, query.camera, own, prepared.inputs)
        found = Inspection(
            model,
            source,
            detection,
            uuid.uuid4().hex,
            prepared.inputs,
            prepared.encoding,
            own.verdict,
            self._warnings(model, query, prepared),
        )
        if self.recording is not None:
            sha256 = prepared.sha256
            self.recording.keep(found, query, timings=timings, image_sha256=sha256, repeat=repeat)
        return found

    def _warnings(
        self, model: ServedModel, query: ScoreQuery, prepared: "_Prepared"
    ) -> tuple[InputWarning, ...]:
        calibration = model.detector.calibration_of(query.camera)
        warnings = prepared.warnings + uncertified(calibration, query.false_alarm_rate)
        for warning in warnings:
            self.metrics.input_warnings.labels(model.name, warning.code).inc()
        return warnings

    async def look(self, source: Source, model: ServedModel, camera: str | None) -> Inspection:
        """Inspect one image for our own purposes: at low priority, neither recorded nor counted."""
        deadline = time.monotonic() + _OWN_DEADLINE_S
        with self.engine.place(model, Priority.LOW, deadline) as kept:
            prepared = await self.in_pool(lambda: self._prepare(source, model, camera))
            outcome = await self.engine.detect(model, prepared.work, kept)
        found = outcome.result
        _require_finite(found)
        return Inspection(
            model, source, found, "", prepared.inputs, prepared.encoding, found.verdict
        )

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

    def _prepare(self, source: Source, model: ServedModel, camera: str | None) -> "_Prepared":
        config = model.config.preprocess
        header = read_header(source) if isinstance(source, bytes) else None
        with self.budget.open() as charge:
            charge.add(self._decoded_bytes(header, config.canvas))
            image = self._decode(source, config.canvas)
            canvas, placement = place(image, config)
            encoding = encoding_of(header, image, is_raw=isinstance(source, RgbImage))
            del image  # before what it was charged is given back
        sha256 = "" if self.recording is None else digest_of(source)
        inputs = input_statistics(canvas)
        warnings = unfamiliar(model.detector.calibration_of(camera), encoding, inputs)
        return _Prepared(Work(canvas, placement, camera), inputs, encoding, warnings, sha256)

    def _decoded_bytes(self, header: Header | None, canvas: int) -> int:
        """What decoding will hold; nothing where it will be refused, or came decoded in the body."""
        if header is None or header.size[0] * header.size[1] > self.settings.max_image_pixels:
            return 0
        return header.decoded_bytes(canvas)

    def _decode(self, source: Source, canvas: int | None = None) -> RgbImage:
        if isinstance(source, RgbImage):
            return source
        return decode_image(source, ImageLimits(self.settings.max_image_pixels), canvas=canvas)

    async def _heatmap(self, found: Inspection, kind: HeatmapKind) -> HeatmapOut | None:
        if kind == "none":
            return None
        if kind == "float16":  # two microseconds: not worth a thread
            return float16_heatmap(found.detection)
        return await self.draw(lambda: self._picture(found, kind), found.detection.placement.source)

    async def draw(self, work: Callable[[], T], source: tuple[int, int]) -> T:
        """Draw a picture of an image of (H, W) in the pool; large ones one after the other.

        What it holds is counted but not refused: the part is inspected already.
        """
        height, width = picture_size(source)
        if height * width <= _SMALL_PICTURE_PX:
            return await self.in_pool(work)

        def counted() -> T:
            with self.budget.open() as charge:
                charge.overdraw(_PICTURE_BYTES_PER_PX * height * width)
                return work()

        async with self._drawing:
            return await self.in_pool(counted)

    def _picture(self, found: Inspection, kind: HeatmapKind) -> HeatmapOut:
        """The map as a picture in the size of the image that was sent, or of what `picture_size` says."""
        detection = found.detection
        size = picture_size(detection.placement.source)
        if kind == "png":
            png = grey_png(detection.anomaly_map, detection.map_threshold, detection.placement)
            return _heatmap_out(kind, "image/png", png, size, detection)
        # Once more: the model's may be smaller. A side of half of it is what a JPEG is reduced for.
        whole = self._decode(found.source, min(size) // 2)
        picture = overlay(whole, detection, found.model.config.preprocess.white_level)
        if kind == "overlay_png":
            return _heatmap_out(kind, "image/png", encode_png(picture), size, detection)
        return _heatmap_out(kind, "image/jpeg", encode_jpeg(picture), size, detection)

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
        return await self.in_pool(lambda: judge(detection, threshold, calibration.map_threshold))

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Run work on one image in a decoder's thread; raises `WorkTooSlow`."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def written(self, answer: ScoreOut | BatchOut) -> bytes:
        """Write an answer as JSON; one with pictures in a thread."""
        return write(answer) if is_short(answer) else await self.parse(lambda: write(answer))

    async def parse(self, work: Callable[[], T]) -> T:
        """Take a body apart, or put an answer together, in a thread apart from images."""
        return await asyncio.get_running_loop().run_in_executor(self.parsers, work)


def _require_finite(detection: Detection) -> None:
    """Raise `InferenceFailed` where a score or a map is none: it would pass as OK."""
    values = (detection.pred_score, detection.score_std, detection.p_value)
    if not np.isfinite(values).all() or not np.isfinite(detection.patch_scores).all():
        raise InferenceFailed("the model's score of this image is not a number; check the model")


def float16_heatmap(detection: Detection) -> HeatmapOut:
    """The patch grid as little-endian float16, in the score's own units."""
    most = np.finfo(np.float16).max
    grid = np.ascontiguousarray(np.clip(detection.patch_scores, -most, most), dtype="<f2")
    return _heatmap_out(
        "float16", "application/octet-stream", grid.tobytes(), grid.shape, detection
    )


def to_base64(data: bytes) -> str:
    """Encode in pieces: in one, no other thread of the interpreter would run meanwhile."""
    pieces = (data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES))
    return b"".join(map(base64.b64encode, pieces)).decode("ascii")


def _heatmap_out(
    kind: HeatmapKind, media_type: str, data: bytes, size: tuple[int, ...], detection: Detection
) -> HeatmapOut:
    return HeatmapOut(
        kind=kind,
        media_type=media_type,
        data=to_base64(data),
        height=size[0],
        width=size[1],
        threshold=detection.map_threshold,
    )
