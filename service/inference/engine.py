"""The models of this process and the threads that run them. Knows no HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.device import choose_device, memory_of, share_cores, usable_cores
from anomaly.errors import ScoreNotFinite
from anomaly.openvino_model import pays_here
from anomaly.runtime import detector_of
from anomaly.types import Detection, FloatArray, Placement
from record.audit import Audit, AuditBroken
from service.errors import AuditUnwritable, InferenceFailed
from service.events import Publish, unheard
from service.inference.batching import Batcher, TooMuchAtOnce
from service.inference.labels import LabelModels, ServedLabels
from service.inference.model_memory import ModelMemory
from service.inference.queue import (
    BatchingConfig,
    Events,
    Outcome,
    Priority,
    QueueFull,
    Reservation,
)
from service.inference.registry import Registry, RegistryConfig
from service.inference.served_model import ServedModel, cost_of
from service.logs import ACTOR
from service.metrics import Metrics
from service.settings import Settings
from supervised.bundle import SupervisedBundle
from supervised.types import Answer

T = TypeVar("T")
_log = logging.getLogger(__name__)

# A CPU computes small batches as fast as large ones, and whoever comes next waits less
# (docs/LOG.md).
_MOST_ITEMS = {"cpu": 16, "cuda": 64}
_COPIES = {"onnx": 2, "openvino": 4}  # of a graph's size in memory, in each session


@dataclass(frozen=True, slots=True)
class Work:
    """One decoded and placed image: (S, S, 3) float32 in [0, 1]."""

    canvas: FloatArray
    placement: Placement
    camera: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Computation:
    """Work with a model on its device that is no inspection; no other is in a batch with it."""

    model: ServedModel
    work: Callable[[], Any]

    def __str__(self) -> str:
        """Return the model's name, which labels metrics."""
        return str(self.model)


class Engine:
    """Loads and warms every model, then runs batches: one at a time on a GPU, several on a CPU."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        audit: Audit | None = None,
        *,
        publish: Publish = unheard,
    ) -> None:
        self.device = choose_device(settings.device)
        self._cores = share_cores(
            self.device.type,
            usable_cores(),
            batches=settings.parallel_batches,
            threads=settings.torch_threads,
        )
        torch.set_num_threads(self._cores.threads)
        self._metrics = metrics
        self._audit = audit
        self._most_items = settings.max_batch_items or _MOST_ITEMS[self.device.type]
        self._stall_after_s = settings.stall_after_s
        self._precision = settings.precision
        may_be_openvino = settings.precision == "auto" and pays_here()
        config = RegistryConfig(
            settings.models_dir,
            settings.default_model,
            ModelMemory(
                settings.max_models_mb,
                sessions=min(2, self._cores.lanes) if self.device.type == "cpu" else 0,
                copies=_COPIES["openvino" if may_be_openvino else "onnx"],
            ),
        )
        self.registry = Registry(config, self._prepare, self._publish, self._note, publish=publish)
        self.registry.load_all()
        self.labels = LabelModels(settings.models_dir, self.device, self._note_labels)
        self.labels.load_all()
        self.batcher: Batcher[Work | Computation, Any] = Batcher(
            self._run,
            BatchingConfig(
                self._cores.lanes,
                self._most_items,
                settings.max_queue_size,
                settings.max_queue_wait_ms / 1000,
                settings.max_queue_delay_ms / 1000,
            ),
            events=_events(metrics),
        )
        metrics.batch_limit.set(self._most_items)
        for kind, read in memory_of(self.device).items():
            metrics.device_memory.labels(kind).set_function(read)
        metrics.watch_queue(lambda: self.batcher.queue.depth, settings.max_queue_size)

    @property
    def is_ready(self) -> bool:
        """Whether a request could be answered now: inference runs, and no batch hangs."""
        return self.batcher.is_alive and self.batcher.busy_s < self._stall_after_s

    def seconds_for(self, requests: int) -> float:
        """How long this many images of the dearest model take."""
        dearest = max((model.cost for model in self.registry.active), default=1)
        return self.batcher.queue.seconds_for(requests * dearest)

    def admit(self, priority: Priority, deadline: float) -> None:
        """Raise `QueueFull` where one more image would be refused now."""
        self.batcher.queue.admit(priority, deadline, caller=ACTOR.get())

    def full(self) -> QueueFull | None:
        """What an image of whoever asks would be refused with now; None where it would not be."""
        return self.batcher.queue.full(ACTOR.get())

    def reserve(
        self, model: ServedModel | ServedLabels, priority: Priority, deadline: float
    ) -> AbstractContextManager[Reservation]:
        """Keep room in the queue for an image while it is decoded; raises `QueueFull`."""
        return self.batcher.queue.reserve(
            priority, cost=model.cost, deadline=deadline, caller=ACTOR.get()
        )

    async def detect(
        self, model: ServedModel, work: Work, reservation: Reservation
    ) -> Outcome[Detection]:
        """Queue one image and wait for its detection; leaving the wait cancels queued work."""
        return await asyncio.wrap_future(self.batcher.queue.put(model, work, reservation))

    async def label(
        self, model: ServedLabels, work: Work, reservation: Reservation
    ) -> Outcome[Answer]:
        """Queue one image for a model of labels and wait for its answer."""
        return await asyncio.wrap_future(self.batcher.queue.put(model, work, reservation))

    async def compute(
        self, model: ServedModel, work: Callable[[], T], reservation: Reservation
    ) -> T:
        """Queue other work with a model; it must not take longer than an image or so."""
        computation = Computation(model, work)
        future = self.batcher.queue.put(computation, computation, reservation)
        result: T = (await asyncio.wrap_future(future)).result
        return result

    def close(self) -> None:
        """Finish what waits and stop the threads."""
        self.batcher.close()

    def _run(self, key: Hashable, requests: Sequence[Work | Computation]) -> Sequence[Any]:
        try:
            with self._cores.batch():
                if isinstance(key, Computation):
                    return [key.work()]
                works = [item for item in requests if isinstance(item, Work)]
                if isinstance(key, ServedLabels):
                    return key.answers(
                        [work.canvas for work in works], [work.placement for work in works]
                    )
                assert isinstance(key, ServedModel)
                return _detections(key, works)
        except ScoreNotFinite:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise TooMuchAtOnce(
                    "the image does not fit the device's memory; try again"
                ) from error
            raise InferenceFailed("the model failed on this image; see the log") from error

    def _prepare(self, bundle: Bundle) -> Detector:
        """Put a model on the device; run its smallest and largest batch, as often as at once."""
        started = time.monotonic()
        limit = max(1, self._most_items // cost_of(bundle))
        detector = detector_of(
            bundle, self.device, staged=limit, cores=self._cores, precision=self._precision
        )
        _log.info("model %s is computed by %s", bundle.name, detector.engine)
        side = bundle.model.config.preprocess.canvas
        place = Placement.filling(side)

        def warm(size: int) -> None:
            with self._cores.batch():
                detector.detect_canvases(torch.zeros(size, 3, side, side), [place] * size)

        warm(1)
        with ThreadPoolExecutor(self._cores.lanes) as pool:
            list(pool.map(warm, [limit] * self._cores.lanes))
        self._metrics.model_load.labels(bundle.name).set(time.monotonic() - started)
        return detector

    def _note(self, action: str, name: str, bundle: Bundle, **more: Any) -> None:
        """Seal into the audit trail what is about to happen; raises `AuditUnwritable`."""
        if bundle.calibration is None:
            return
        details = {
            "version": bundle.version,
            "digest": bundle.digest,
            "threshold": bundle.calibration.threshold,
            "false_alarm_rate": bundle.calibration.false_alarm_rate,
        }
        self._seal(action, name, **(details | more))

    def _note_labels(self, bundle: SupervisedBundle) -> None:
        """Seal that another version of a model of labels is about to serve."""
        kind = bundle.config.task
        self._seal("load", bundle.name, kind=kind, version=bundle.version, digest=bundle.digest)

    def _seal(self, action: str, name: str, **details: Any) -> None:
        if self._audit is None:
            return
        try:
            self._audit.add(action, name, ACTOR.get(), **details)
        except (OSError, AuditBroken) as error:
            reason = getattr(error, "strerror", None) or error
            raise AuditUnwritable(
                f"the audit trail cannot be written ({reason}), so nothing is changed"
            ) from error

    def _publish(self) -> None:
        """Tell the metrics which versions serve, and which models are broken."""
        for slot in self.registry.slots.values():
            if slot.failure is not None:
                self._metrics.model_ready.labels(slot.name).set_function(lambda: 0.0)
        self._metrics.model_info.clear()
        self._metrics.threshold_mode.clear()
        for model in self.registry.active:
            bundle = model.bundle
            self._metrics.reserve_cameras(bundle.cameras)
            self._metrics.model_info.labels(model.name, bundle.version, bundle.digest).set(1)
            self._metrics.threshold_mode.labels(model.name, model.detector.calibration.mode).set(1)
            self._metrics.model_ready.labels(model.name).set_function(lambda: float(self.is_ready))


def _detections(model: ServedModel, works: Sequence[Work]) -> list[Detection]:
    canvases = torch.from_numpy(np.stack([work.canvas for work in works]))
    pixels = canvases.permute(0, 3, 1, 2).contiguous()  # (B, 3, S, S)
    return model.detector.detect_canvases(
        pixels, [work.placement for work in works], [work.camera for work in works]
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or its allocator had no memory left; frees what torch caches on a GPU."""
    message = str(error).lower()
    is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "alloc" in message and "memory" in message
    )
    if is_memory and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return is_memory


def _events(metrics: Metrics) -> Events:
    return Events(
        batch=lambda key, size: metrics.batch_size.labels(str(key)).observe(size),
        limit=metrics.batch_limit.set,
        too_much=lambda key: metrics.out_of_memory.labels(str(key)).inc(),
    )
