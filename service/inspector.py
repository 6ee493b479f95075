"""One image from bytes to inspection: decode, queue, inference, encode. Knows no HTTP.

Decoding, placing and picture encoding run in a bounded thread pool, inference in the engine's
threads; the event loop only waits for them.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import numpy as np

from anomaly.detector import judge
from anomaly.encoding import Encoding, Header, encoding_of, read_header
from anomaly.familiarity import InputWarning, uncertified, unfamiliar
from anomaly.input_statistics import input_statistics
from anomaly.preprocess import PreprocessConfig, place
from anomaly.types import Detection, FloatArray, Placement, RgbImage
from record.result import JsonObject
from service.budget import Budget
from service.concurrency import in_thread
from service.errors import InferenceFailed
from service.events import Publish, unheard
from service.heatmaps import Heatmaps, decoded
from service.inference.engine import Engine, Work
from service.inference.inspection import Inspection, Source
from service.inference.queue import Priority
from service.inference.served_model import ServedModel
from service.kinds.book import KindBook
from service.kinds.material import Described
from service.metrics import Metrics
from service.results.drift import DriftMonitor
from service.results.idempotency import Lookup, RepeatKey, Repeats, nothing_stored
from service.results.recording import Recording, image_digest
from service.schemas.scoring import ModelRef, ScoreOut, ScoreQuery
from service.settings import Settings
from service.timings import Timings
from service.workers import WorkerPool, WorkTooSlow

_log = logging.getLogger(__name__)

T = TypeVar("T")
_OWN_DEADLINE_S = 600.0
_CHECKED_ON = 1024  # canvas for which an image is decoded that is only looked at


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
    """What an image passes through."""

    engine: Engine
    metrics: Metrics
    settings: Settings
    pool: WorkerPool
    parsers: WorkerPool
    budget: Budget
    drifts: DriftMonitor
    heatmaps: Heatmaps
    kinds: KindBook
    recording: Recording | None = None
    publish: Publish = unheard
    repeats: Repeats = field(default_factory=Repeats)

    async def inspect_once(
        self,
        data: bytes,
        query: ScoreQuery,
        deadline: float,
        timings: Timings,
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
        sha256 = await self.in_pool(partial(image_digest, data))
        repeat = RepeatKey.of(named, caller=caller, image_sha256=sha256, item=item)
        inspect = partial(self.inspect_image, data, query, deadline, timings, repeat=repeat)
        stored: Lookup = nothing_stored if self.recording is None else self.recording.repeated
        return await self.repeats.once(repeat, inspect, stored)

    async def inspect_image(
        self,
        source: Source,
        query: ScoreQuery,
        deadline: float,
        timings: Timings,
        *,
        repeat: RepeatKey | None = None,
    ) -> ScoreOut:
        """Answer for one image; `timings` follows it from stage to stage."""
        inspection = await self.detect(source, query, deadline, timings, repeat=repeat)
        with self.metrics.timed("encode", timings):
            heatmap = await self.heatmaps.of(inspection, query.heatmap)
        return ScoreOut.of(
            inspection.detection,
            query,
            model=_model_ref(inspection.model, query.camera, inspection.kinds),
            heatmap=heatmap,
            result_id=inspection.result_id,
            timings=timings.seconds,
            warnings=inspection.warnings,
        )

    async def detect(
        self,
        source: Source,
        query: ScoreQuery,
        deadline: float,
        timings: Timings,
        *,
        repeat: RepeatKey | None = None,
    ) -> Inspection:
        """Decode, queue and infer one image, and judge it as this request wants."""
        model = await self.engine.registry.acquire(query.model)
        priority = Priority[query.priority.upper()]
        with self.engine.reserve(model, priority, deadline) as reservation:
            with self.metrics.timed("decode", timings):
                prepared = await self.in_pool(lambda: self._prepare(source, model, query.camera))
            timings.stage = "queue"  # and inference: which of them is not known until both are over
            outcome = await self.engine.detect(model, prepared.work, reservation)
        self.metrics.observe_stage(
            "queue", outcome.queue_s, timings, ended_s_ago=outcome.inference_s
        )
        self.metrics.observe_stage("inference", outcome.inference_s, timings)
        # Judged by the calibration: what a request asks for bends no metric.
        calibrated = outcome.result
        _require_finite(calibrated)
        asked, vectors = await self._described(
            await self._as_asked(calibrated, model, query), model
        )
        learned = self.kinds.of(model)
        detection = asked if vectors is None else learned.judged(asked, vectors)
        bends_nothing = query.threshold is None and query.false_alarm_rate is None
        observed = detection if bends_nothing else calibrated
        self.metrics.observe_detection(model.name, query.camera, observed)
        self.metrics.observe_kinds(model.name, observed)
        self.drifts.add(model, query.camera, calibrated, prepared.inputs)
        inspection = Inspection(
            model,
            source,
            detection,
            uuid.uuid4().hex,
            prepared.inputs,
            prepared.encoding,
            calibrated.verdict,
            self._warnings(model, query, prepared),
            vectors,
            learned.version,
        )
        inspected_at, is_kept = datetime.now(UTC), False
        if self.recording is not None:
            is_kept = self.recording.keep(
                inspection,
                query,
                inspected_at=inspected_at,
                timings=timings.seconds,
                image_sha256=prepared.sha256,
                repeat=repeat,
            )
        # In the moment of `inspected_at`: a stream that read later has this one, or is told.
        self.publish("inspection", _event(inspection, query, inspected_at, is_kept=is_kept))
        return inspection

    async def _described(
        self, detection: Detection, model: ServedModel
    ) -> tuple[Detection, FloatArray | None]:
        """Describe the regions, (n, D), and let go what they are described from.

        A name is never worth a verdict: where they cannot be described, they have none.
        """
        bare = replace(detection, differences=None)
        if detection.differences is None or not detection.regions:
            return bare, None
        try:
            return bare, await self.in_pool(lambda: model.detector.describe(detection))
        except (WorkTooSlow, RuntimeError) as error:  # a device's memory is a RuntimeError, too
            _log.warning("regions of a part are not described, so not named: %s", error)
            return bare, None

    def _warnings(
        self, model: ServedModel, query: ScoreQuery, prepared: "_Prepared"
    ) -> tuple[InputWarning, ...]:
        calibration = model.detector.calibration_of(query.camera)
        warnings = prepared.warnings + uncertified(calibration, query.false_alarm_rate)
        for warning in warnings:
            self.metrics.input_warnings.labels(model.name, warning.code).inc()
        return warnings

    async def inspect_unrecorded(
        self, source: Source, model: ServedModel, camera: str | None
    ) -> Inspection:
        """Inspect one image for our own purposes: at low priority, neither recorded nor counted."""
        deadline = time.monotonic() + _OWN_DEADLINE_S
        with self.engine.reserve(model, Priority.LOW, deadline) as reservation:
            prepared = await self.in_pool(lambda: self._prepare(source, model, camera))
            outcome = await self.engine.detect(model, prepared.work, reservation)
        _require_finite(outcome.result)
        detection, vectors = await self._described(outcome.result, model)
        return Inspection(
            model,
            source,
            detection,
            "",
            prepared.inputs,
            prepared.encoding,
            detection.verdict,
            vectors=vectors,
        )

    async def describe_again(
        self, data: bytes, model: ServedModel, camera: str | None
    ) -> Described | None:
        """Describe the regions of a stored image by another model; None where it finds none."""
        inspection = await self.inspect_unrecorded(data, model, camera)
        if inspection.vectors is None:
            return None
        regions = [asdict(region) for region in inspection.detection.regions]
        return Described(regions, inspection.vectors)

    async def check(self, data: bytes) -> None:
        """Decode an image only to see that it can be; raises what decoding raises."""

        def decode() -> None:
            header = read_header(data)
            with self.budget.open() as charge:
                charge.add(self._decoded_bytes(header, _CHECKED_ON))
                decoded(data, self.settings.max_image_pixels, _CHECKED_ON)

        await self.in_pool(decode)

    async def place(self, data: bytes, model: ServedModel) -> tuple[FloatArray, Placement]:
        """Decode and place a stored image as its inspection did; raises `ImageError`."""
        config = model.config.preprocess
        canvas, placement, _ = await self.in_pool(lambda: self.placed(data, config))
        return canvas, placement

    async def compute(self, model: ServedModel, work: Callable[[], T]) -> T:
        """Run other work with a model on its device for our own purposes: at low priority."""
        deadline = time.monotonic() + _OWN_DEADLINE_S
        with self.engine.reserve(model, Priority.LOW, deadline) as reservation:
            return await self.engine.compute(model, work, reservation)

    def deadline_of(self, query: ScoreQuery) -> float:
        """When a request that begins now must be answered, on the clock of `time.monotonic`."""
        return time.monotonic() + (query.deadline_ms or self.settings.max_wait_ms) / 1000

    def _prepare(self, source: Source, model: ServedModel, camera: str | None) -> "_Prepared":
        canvas, placement, encoding = self.placed(source, model.config.preprocess)
        sha256 = "" if self.recording is None else image_digest(source)
        inputs = input_statistics(canvas)
        warnings = unfamiliar(model.detector.calibration_of(camera), encoding, inputs)
        return _Prepared(Work(canvas, placement, camera), inputs, encoding, warnings, sha256)

    def placed(
        self, source: Source, config: PreprocessConfig
    ) -> tuple[FloatArray, Placement, Encoding]:
        """Decode an image within the budget and place it; called in the pool."""
        header = read_header(source) if isinstance(source, bytes) else None
        with self.budget.open() as charge:
            charge.add(self._decoded_bytes(header, config.canvas))
            image = decoded(source, self.settings.max_image_pixels, config.canvas)
            canvas, placement = place(image, config)
            encoding = encoding_of(header, image, is_raw=isinstance(source, RgbImage))
            del image  # before what it was charged is given back
        return canvas, placement, encoding

    def _decoded_bytes(self, header: Header | None, canvas: int) -> int:
        """What decoding will hold; nothing if the image is refused or came decoded in the body."""
        if header is None or header.size[0] * header.size[1] > self.settings.max_image_pixels:
            return 0
        return header.decoded_bytes(canvas)

    async def _as_asked(
        self, detection: Detection, model: ServedModel, query: ScoreQuery
    ) -> Detection:
        """Apply this request's own threshold or false-alarm rate, if it has one."""
        if query.threshold is None and query.false_alarm_rate is None:
            return detection
        calibration = model.detector.calibration_of(query.camera)
        if query.false_alarm_rate is not None:
            calibration = calibration.at_rate(query.false_alarm_rate)

        def judged() -> Detection:  # an estimate for a new rate takes tens of milliseconds
            threshold = calibration.threshold if query.threshold is None else query.threshold
            return judge(detection, threshold, calibration.map_threshold)

        return await self.in_pool(judged)

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Run work on one image in a decoder's thread; raises `WorkTooSlow`."""
        return await in_thread(self.pool, work)


def _model_ref(model: ServedModel, camera: str | None, kinds: str | None) -> ModelRef:
    """Say which version answers for a camera, and names what it finds."""
    return ModelRef(
        name=model.name,
        version=model.bundle.version,
        digest=model.bundle.digest,
        calibration=model.judged_by(camera),
        kinds=kinds,
    )


def _event(
    inspection: Inspection, query: ScoreQuery, inspected_at: datetime, *, is_kept: bool
) -> JsonObject:
    """What whoever watches is told of an inspection."""
    detection, model = inspection.detection, inspection.model
    return {
        "result_id": inspection.result_id,
        "inspected_at": inspected_at,
        "model": model.name,
        "version": model.bundle.version,
        "camera": query.camera,
        "part_id": query.part_id,
        "lot": query.lot,
        "program": query.program,
        "verdict": detection.verdict,
        "score": detection.pred_score,
        "threshold": detection.threshold,
        "p_value": detection.p_value,
        "kept": is_kept,
        "regions": len(detection.regions),
    }


def _require_finite(detection: Detection) -> None:
    """Raise `InferenceFailed` where a score or a map is none: it would pass as OK."""
    values = (detection.pred_score, detection.score_std, detection.p_value)
    if not np.isfinite(values).all() or not np.isfinite(detection.patch_scores).all():
        raise InferenceFailed("the model's score of this image is not a number; check the model")
