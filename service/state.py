"""What routes work with: made once when the service starts, never changed afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import State

from service.datasets import Datasets
from service.errors import NotReady
from service.events import EventBus
from service.http.sessions import Sessions
from service.http.static_files import StaticFile
from service.inference.model_watch import ModelWatch
from service.inference.registry import Gate, Registry
from service.inspector import Inspector
from service.jobs.board import Jobs
from service.metrics import Metrics
from service.recalibration.calibrator import Calibrator
from service.report.maker import Reports
from service.why.explainer import Explainer


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """The parts of a service that runs.

    `gate` looks at every version before it serves; None where nothing is recorded, so that there is
    nothing to look at, nor to report. `sessions`, which have the keys, are None where
    authentication is off. `page` has the files of the web page by their paths.
    """

    registry: Registry
    gate: Gate | None
    watch: ModelWatch
    inspector: Inspector
    calibrator: Calibrator
    jobs: Jobs
    datasets: Datasets
    explainer: Explainer
    reports: Reports | None
    metrics: Metrics
    sessions: Sessions | None
    page: Mapping[str, StaticFile]
    events: EventBus


async def app_state(request: Request) -> AppState:
    """Return the parts of the service that answers."""
    parts: AppState = request.app.state.parts
    return parts


def why_not_ready(state: State) -> NotReady | None:
    """Say why an image sent now would not be inspected; None where it would be."""
    if state.draining:
        return NotReady("the service is shutting down; send images elsewhere")
    parts: AppState = state.parts
    no_labels = not parts.inspector.engine.labels.serving
    if no_labels and (missing := parts.registry.no_model()) is not None:
        return missing
    if not parts.inspector.engine.is_ready:
        return NotReady("inference has stopped or hangs; restart the service")
    if parts.inspector.pool.is_stuck:
        return NotReady("every decoder hangs; look at what was sent, and restart the service")
    return None


async def inspector(request: Request) -> Inspector:
    """Return the app's inspector."""
    return (await app_state(request)).inspector


async def registry(request: Request) -> Registry:
    """Return the app's models."""
    return (await app_state(request)).registry


async def instruments(request: Request) -> Metrics:
    """Return the app's instruments."""
    return (await app_state(request)).metrics
