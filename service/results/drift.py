"""A watch over each model's parts from each camera, since the start or the last calibration."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from anomaly.drift import Finding, Watch
from anomaly.types import Detection, FloatArray
from service.events import Publish, unheard
from service.inference.served_model import ServedModel
from service.metrics import Metrics

_FINDINGS = ("camera", "parts")
_LOOK_EVERY = 10


@dataclass(slots=True)
class _Watched:
    """A watch, the calibration that it holds parts against, and what was published of it."""

    calibration: str
    watch: Watch
    finding: Finding = "none"


@dataclass(frozen=True, slots=True)
class DriftMonitor:
    """All watches; cameras are bounded as the metrics' labels are."""

    metrics: Metrics
    parts_per_alarm: float
    publish: Publish = unheard
    _watched: dict[tuple[str, str], _Watched] = field(default_factory=dict)

    def add(
        self, model: ServedModel, camera: str | None, detection: Detection, inputs: FloatArray
    ) -> None:
        """Take one inspected part."""
        key, digest = (model.name, self.metrics.camera(camera)), model.judged_by(camera)
        watched = self._watched.get(key)
        if watched is None or watched.calibration != digest:
            calibration = model.detector.calibration_of(camera)
            watched = _Watched(
                digest,
                Watch(calibration, self.parts_per_alarm),
                "none" if watched is None else watched.finding,
            )
            self._watched[key] = watched
            self._show(*key, watched.watch)
        watched.watch.add(detection.pred_score, inputs, detection.embedding, datetime.now(UTC))
        self._tell(*key, watched)

    def of(self, model: str) -> dict[str, Watch]:
        """Return a model's watches by camera."""
        return {
            camera: watched.watch
            for (name, camera), watched in sorted(self._watched.items())
            if name == model
        }

    def _tell(self, model: str, camera: str, watched: _Watched) -> None:
        """Publish the finding where it is another."""
        # Once something has changed, medians are taken to say what: not for every part.
        if watched.watch.parts % _LOOK_EVERY == 1 and watched.finding != (
            finding := watched.watch.finding
        ):
            watched.finding = finding
            self.publish("drift", {"model": model, "camera": camera, "finding": finding})

    def _show(self, model: str, camera: str, watch: Watch) -> None:
        """Let the metrics read a watch whenever they are read."""
        metrics, none = self.metrics, float("nan")

        def psi(name: str) -> float:
            psi_value = watch.psi(name)
            return none if psi_value is None else psi_value

        metrics.score_drift.labels(model, camera).set_function(lambda: psi("score"))
        for name in watch.names[1:]:
            labels = metrics.input_drift.labels(model, camera, name)
            labels.set_function(lambda name=name: psi(name))  # type: ignore[misc]
        if "brightness" in watch.names:
            labels = metrics.brightness.labels(model, camera)
            labels.set_function(lambda: watch.ratio("brightness") or none)
        for finding in _FINDINGS:
            labels = metrics.drift_found.labels(model, camera, finding)
            labels.set_function(
                lambda finding=finding: float(watch.finding == finding),  # type: ignore[misc]
            )
