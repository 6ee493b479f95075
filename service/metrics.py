"""Every Prometheus instrument, in one place. Seconds and bytes; no label is unbounded."""

import time
from collections import Counter as Counter_
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from anomaly.kinds import MOST_KINDS, UNKNOWN
from anomaly.types import Detection
from service.logs import ACTOR, ANYBODY, SERVICE
from service.timings import Stage, Timings

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_RATIOS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_MAX_CAMERAS = 64
_MAX_OF_KEY = 32
OTHER = "other"


class Metrics:
    """The instruments of one app, in a registry of its own."""

    def __init__(self, trace_stage: Callable[[str, float, float], None] | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._of_parts()
        self._of_requests()
        self._of_inference()
        self._of_record()
        self._trace_stage = trace_stage
        self._cameras: set[str] = set()
        self._reserved: set[str] = set()
        self._kinds: dict[str, set[str]] = {}  # counted so far, by model
        self._with_examples: dict[str, set[str]] = {}
        self._brought: Counter_[str] = Counter_()  # cameras by the key that sent them first

    def watch_queue(self, depth: Callable[[], float], limit: int) -> None:
        """Read the queue's depth whenever the metrics are read."""
        self.queue_depth.set_function(depth)
        self.queue_limit.set(limit)

    @contextmanager
    def timed(self, stage: Stage, timings: Timings) -> Iterator[None]:
        """Time a stage into the histogram and the answer's timings."""
        timings.stage = stage
        started = time.perf_counter()
        yield
        self.observe_stage(stage, time.perf_counter() - started, timings)

    def observe_stage(
        self, stage: Stage, seconds: float, timings: Timings, *, ended_s_ago: float = 0.0
    ) -> None:
        """Record a stage that was timed elsewhere."""
        self.stage.labels(stage).observe(seconds)
        timings.seconds[stage] = seconds
        if self._trace_stage is not None:
            self._trace_stage(stage, seconds, ended_s_ago)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer; `route` is a pattern, never a path."""
        self.requests.labels(route, str(status)).inc()
        self.request_duration.labels(route).observe(seconds)

    def observe_detection(self, model: str, camera: str | None, detection: Detection) -> None:
        """Count one finished inspection."""
        label = self.camera(camera)
        self.inspections.labels(model, label, detection.verdict).inc()
        ratio = detection.pred_score / max(detection.threshold, 1e-6)
        self.score_ratio.labels(model, label).observe(ratio)
        self.last_image.labels(label).set_to_current_time()

    def observe_kinds(self, model: str, detection: Detection) -> None:
        """Count what was found on a part, each kind once; nothing is said of unnamed regions."""
        for kind in {region.kind for region in detection.regions if region.kind is not None}:
            self.defects.labels(model, self._kind(model, kind)).inc()

    def count_examples(self, model: str, examples: Mapping[str, int]) -> None:
        """Say how many examples each kind of a model has now."""
        for kind in self._with_examples.pop(model, ()):
            self.kind_examples.remove(model, kind)
        self._with_examples[model] = set(examples)
        for kind, count in examples.items():
            self.kind_examples.labels(model, kind).set(count)

    def _kind(self, model: str, kind: str) -> str:
        """Bound the labels: kinds that come when there are many already share one."""
        names = self._kinds.setdefault(model, {UNKNOWN})
        if kind not in names and len(names) > MOST_KINDS:
            return OTHER
        names.add(kind)
        return kind

    def reserve_cameras(self, names: Iterable[str]) -> None:
        """Give cameras with a calibration of their own a label, whoever comes before them."""
        self._reserved.update(names)

    def camera(self, camera: str | None) -> str:
        """Return a camera's label: all cameras beyond the first 64 share the label `other`.

        One API key brings 32 of them at most, so that none pushes out what others send.
        """
        name = camera or "none"
        if name in self._reserved or name in self._cameras:
            return name
        key = ACTOR.get()
        limit = _MAX_CAMERAS if key in (ANYBODY, SERVICE) else _MAX_OF_KEY
        if len(self._cameras) >= _MAX_CAMERAS or self._brought[key] >= limit:
            return "other"
        self._brought[key] += 1
        self._cameras.add(name)
        return name

    def _of_parts(self) -> None:
        """What is found of parts, and what cameras send."""
        self.inspections = self._counter(
            "inspections", "Parts inspected.", "model", "camera", "verdict"
        )
        self.score_ratio = Histogram(
            "maskline_score_ratio",
            "Score divided by threshold; above 1 is NG.",
            ("model", "camera"),
            buckets=_RATIOS,
            registry=self.registry,
        )
        self.input_warnings = self._counter(
            "input_warnings", "Images unlike those calibrated on, and in what.", "model", "code"
        )
        self.defects = self._counter(
            "defects", "Parts on which a kind of defect was found.", "model", "kind"
        )
        self.kind_examples = self._gauge(
            "kind_examples", "Labelled regions that a kind is named from.", "model", "kind"
        )
        self.last_image = self._gauge(
            "last_image_timestamp_seconds", "When a camera's last image came.", "camera"
        )
        self.score_drift = self._gauge(
            "score_drift_psi", "Stability index of the last scores.", "model", "camera"
        )
        self.input_drift = self._gauge(
            "input_drift_psi",
            "Stability index of what the camera sends, and of the distance from remembered parts.",
            "model",
            "camera",
            "statistic",
        )
        self.brightness = self._gauge(
            "input_brightness_ratio", "Brightness over that at calibration.", "model", "camera"
        )
        self.drift_found = self._gauge(
            "drift_found", "1 where camera or parts changed.", "model", "camera", "finding"
        )

    def _of_requests(self) -> None:
        """Requests, from the first byte to the last."""
        self.stage = Histogram(
            "maskline_stage_duration_seconds",
            "Time in each stage: read, decode, queue, inference, encode.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = self._counter("requests", "Requests answered.", "route", "code")
        self.request_duration = Histogram(
            "maskline_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rejected = self._counter("rejected", "Requests refused, by reason.", "reason")
        self.abandoned = self._counter("abandoned", "Requests whose client left.", "stage")
        self.in_flight = self._gauge("in_flight_requests", "Requests past the door.")
        self.in_flight_bytes = self._gauge(
            "in_flight_bytes", "Bytes of bodies and decoded images at hand."
        )
        self.event_streams = self._gauge("event_streams", "Streams of events that are open.")
        self.events_dropped = self._counter(
            "events_dropped", "Times that a slow stream lost what waited for it, and was told so."
        )
        self.lost_decoders = self._gauge(
            "lost_decoders", "Threads that hang in an image and were replaced or given up."
        )

    def _of_inference(self) -> None:
        """Models, the queue before them and the device."""
        self.model_info = self._gauge("model_info", "1.", "model", "version", "digest")
        self.threshold_mode = self._gauge(
            "threshold_mode",
            "1 for what stands behind the threshold: certified, estimated, largest, given.",
            "model",
            "mode",
        )
        self.model_load = self._gauge(
            "model_load_seconds", "Warm-up of the version loaded last.", "model"
        )
        self.model_ready = self._gauge("model_ready", "1 when ready to answer.", "model")
        self.queue_limit = self._gauge("queue_limit", "Most requests the queue holds.")
        self.queue_depth = self._gauge("queue_depth", "Requests in the queue.")
        self.batch_size = Histogram(
            "maskline_batch_size",
            "Images in a batch.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_limit = self._gauge("batch_limit", "Most work items in a batch now.")
        self.out_of_memory = self._counter("oom", "Batches that did not fit the device.", "model")
        self.device_memory = self._gauge(
            "device_memory_bytes", "Memory held on the device; resident on a CPU.", "kind"
        )

    def _of_record(self) -> None:
        """What is kept, and who watches over it."""
        self.record_behind = self._gauge("record_behind_bytes", "Results that the store lacks yet.")
        self.record_lost = self._counter("record_lost", "Results that the disk did not take.")
        self.record_refused = self._counter(
            "record_refused", "Lines of the journal that are no results: set aside."
        )
        self.record_away = self._gauge(
            "record_away", "1 where the store did not take results when last tried."
        )
        self.kept_bytes = self._gauge("kept_bytes", "Images and evidence that are kept.")
        self.kept_lost = self._counter("kept_lost", "Images that could not be kept.")
        self.audit_broken = self._gauge(
            "audit_broken", "1 where the audit trail was altered or is gone."
        )
        self.task_failures = self._counter(
            "task_failures", "Tasks in the background that broke off and began anew."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"maskline_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"maskline_{name}", text, labels, registry=self.registry)
