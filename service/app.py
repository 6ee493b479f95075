"""The application: settings in, FastAPI out. Models are loaded before the first request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import cv2
from fastapi import FastAPI
from starlette.datastructures import State
from starlette.middleware import Middleware

from anomaly.device import give_back_memory, usable_cores
from anomaly.errors import AnomalyError
from record.audit import AuditBroken
from record.result import JsonObject
from service.budget import Budget
from service.datasets import Datasets
from service.errors import AuditUnwritable, StartError
from service.events import EventBus, Publish, Status
from service.heatmaps import Heatmaps
from service.http.admission import Door
from service.http.api_keys import KeyRing
from service.http.auth import SCHEMES
from service.http.guard import Guard, rules_of
from service.http.login_limit import LoginLimit
from service.http.problems import explained, install
from service.http.request_context import Frame
from service.http.sessions import Sessions
from service.http.static_files import read_folder
from service.http.tracing import Tracing, open_tracing
from service.inference.engine import Engine
from service.inference.model_watch import ModelWatch
from service.inference.queue import QueueFull
from service.inspector import Inspector
from service.jobs.adoption import Adoption
from service.jobs.board import Jobs
from service.jobs.calibrations import Calibrations
from service.jobs.folders import JobFolders
from service.jobs.trainings import Trainings
from service.kinds.book import KindBook
from service.logs import hide
from service.metrics import Metrics
from service.recalibration.calibrator import Calibrator
from service.recalibration.reviewer import Reviewer
from service.report.maker import Reports
from service.results.drift import DriftMonitor
from service.results.recording import Recording, audit_of
from service.routes import (
    audit,
    calibration,
    cameras,
    datasets,
    events,
    health,
    jobs,
    kinds,
    lookout,
    masks,
    models,
    oip,
    pictures,
    preview,
    report,
    results,
    review,
    score,
    session,
    ui,
    why,
)
from service.settings import Settings
from service.state import AppState, why_not_ready
from service.why.explainer import Explainer
from service.workers import WorkerPool

_log = logging.getLogger(__name__)
_TIDY_S = 60.0
_INSPECTION = (score, oip, lookout)
_MODELS = (models, calibration, preview, kinds, datasets, jobs, audit)
_RECORD = (results, pictures, masks, review, why, cameras, report)
_ROUTES = (*_INSPECTION, *_MODELS, *_RECORD, events, session, ui, health)
_AGAIN_S = 5.0
_STATUS_S = 0.1  # a stream that stayed open would hold up the exit

_DESCRIPTION = (
    "Visual anomaly detection: POST an image, get OK or NG with a score that has a meaning."
)


def _documented(app: FastAPI) -> Callable[[], JsonObject]:
    """Add the key schemes to the OpenAPI document."""
    plain = app.openapi

    def openapi() -> JsonObject:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
        return document

    return openapi


async def _kept_up(task: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Run a task as long as the service runs: an end is logged and counted, and it starts anew."""
    while True:
        try:
            return await task()
        except Exception:  # noqa: BLE001  (a watch that ended in silence is what this is against)
            _log.exception("a task in the background broke off, and begins anew")
            metrics.task_failures.inc()
            await asyncio.sleep(_AGAIN_S)


async def _check_audit(settings: Settings, metrics: Metrics) -> None:
    """Look once whether the audit trail is whole; a broken one is told, and stops no line."""
    if (trail := audit_of(settings)) is None:
        return
    try:
        await asyncio.to_thread(trail.verify)
    except AuditBroken as error:
        _log.error("%s; see docs/alerts.md, AuditBroken", error)
        metrics.audit_broken.set(1)


async def _watch_status(state: State, events: EventBus) -> None:
    """Tell streams whether images would be inspected, and end them where the service drains."""
    while True:
        status: Status = "ready" if why_not_ready(state) is None else "not_ready"
        events.change_status("draining" if state.draining else status)
        await asyncio.sleep(_STATUS_S)


async def _tidy_memory() -> None:
    while True:
        await asyncio.to_thread(give_back_memory)
        await asyncio.sleep(_TIDY_S)


def _recording(settings: Settings, metrics: Metrics, publish: Publish) -> Recording | None:
    if settings.record == "off":
        return None
    return Recording(
        settings.record_dir,
        settings.database_url,
        metrics,
        keep=settings.keeping,
        keep_url=settings.keep_url,
        record_days=settings.record_days,
        publish=publish,
    )


def _workers(settings: Settings, name: str) -> WorkerPool:
    """Threads for images, or as many for bodies and answers: neither waits for the other."""
    threads = settings.decode_threads or min(16, max(2, usable_cores() // 2))
    return WorkerPool(threads, name, limit_s=settings.decode_timeout_s)


def _budget(settings: Settings, metrics: Metrics) -> Budget:
    budget = Budget(int(settings.max_in_flight_mb * 1e6))
    metrics.in_flight_bytes.set_function(lambda: float(budget.taken_bytes))
    return budget


def _reports(settings: Settings, recording: Recording | None, heatmaps: Heatmaps) -> Reports | None:
    return None if recording is None else Reports(recording, heatmaps, audit_of(settings))


def _events(settings: Settings, metrics: Metrics) -> EventBus:
    events = EventBus(most_streams=settings.max_event_streams, dropped=metrics.events_dropped.inc)
    metrics.event_streams.set_function(lambda: float(events.streams))
    return events


def _assemble(
    settings: Settings,
    metrics: Metrics,
    sessions: Sessions | None,
    *,
    engine: Engine,
    recording: Recording | None,
    pools: tuple[WorkerPool, WorkerPool],
    events: EventBus,
) -> AppState:
    """Put the parts together, each on those above it."""
    pool, parsers = pools
    budget = _budget(settings, metrics)
    inspector = Inspector(
        engine=engine,
        metrics=metrics,
        settings=settings,
        pool=pool,
        parsers=parsers,
        budget=budget,
        drifts=DriftMonitor(metrics, settings.drift_parts_per_alarm, events.publish),
        heatmaps=Heatmaps(pool, budget, settings.max_image_pixels),
        kinds=KindBook(engine.registry, recording, metrics, audit_of(settings)),
        recording=recording,
        publish=events.publish,
    )
    # Where results are kept, a new version is held against them before it serves.
    reviewer = (
        None if recording is None else Reviewer(inspector, recording, settings.review_results)
    )
    gate = None if reviewer is None else reviewer.check
    return AppState(
        registry=engine.registry,
        gate=gate,
        watch=ModelWatch(engine.registry, gate),
        inspector=inspector,
        calibrator=Calibrator(inspector, recording, reviewer),
        jobs=_jobs(settings, Adoption(engine.registry, gate), events.publish),
        datasets=Datasets(settings.dataset_root, settings.datasets_mb * 1e6, settings.train_roots),
        explainer=Explainer(inspector),
        reports=_reports(settings, recording, inspector.heatmaps),
        metrics=metrics,
        sessions=sessions,
        events=events,
        page=read_folder(ui.FOLDER),
    )


def _jobs(settings: Settings, adopt: Adoption, publish: Publish) -> Jobs:
    folders, audit = JobFolders(settings.job_root), audit_of(settings)
    return Jobs(
        Trainings(folders, adopt, audit, publish=publish),
        Calibrations(explained, publish=publish),
    )


@asynccontextmanager
async def _running(
    app: FastAPI, settings: Settings, metrics: Metrics, sessions: Sessions | None
) -> AsyncIterator[None]:
    """Load the models, run until the server stops, and close what was opened."""
    hide(settings.secrets)
    _log.info("settings: %s", settings.echo())
    # A damaged image is an answer, not lines in the log.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    events = _events(settings, metrics)
    try:
        recording = _recording(settings, metrics, events.publish)
        engine = Engine(settings, metrics, audit_of(settings), publish=events.publish)
    except (AnomalyError, StartError, AuditUnwritable) as error:
        app.state.failure = error  # told again, in one line, by `service.run`
        raise
    with _workers(settings, "decode") as pool, _workers(settings, "parse") as parsers:
        app.state.pools = (pool, parsers)
        metrics.lost_decoders.set_function(lambda: float(pool.lost))
        parts = _assemble(
            settings,
            metrics,
            sessions,
            engine=engine,
            recording=recording,
            pools=(pool, parsers),
            events=events,
        )
        await parts.jobs.trainings.open()
        app.state.parts = parts
        tasks = [
            lambda: parts.watch.run(settings.watch_models_s),
            parts.jobs.trainings.run,
            lambda: parts.inspector.kinds.run(parts.inspector.describe_again),
            lambda: _check_audit(settings, metrics),
            lambda: _watch_status(app.state, events),
            _tidy_memory,
        ]
        running = [asyncio.create_task(_kept_up(task, metrics)) for task in tasks]
        yield
        for task in running:
            task.cancel()
        await parts.jobs.close()
        engine.close()
        if recording is not None:
            recording.close()


def _middleware(
    state: State,
    settings: Settings,
    metrics: Metrics,
    sessions: Sessions | None,
    *,
    tracing: Tracing | None,
) -> list[Middleware]:
    """Return what a request passes before its route, the outermost first."""

    def engine() -> Engine | None:
        return None if state.parts is None else state.parts.inspector.engine

    def seconds_for(requests: int) -> float:
        return 1.0 if (loaded := engine()) is None else loaded.seconds_for(requests)

    def full() -> QueueFull | None:
        return None if (loaded := engine()) is None else loaded.full()

    spans = [] if tracing is None else [tracing.middleware]
    frame = Middleware(Frame, is_draining=lambda: state.draining, observe=metrics.observe_request)
    guard = Middleware(
        Guard,
        rules=rules_of(
            (route for module in _ROUTES for route in module.router.routes),
            bulk_bytes=max(settings.max_bulk_bytes, settings.max_body_bytes),
            open_paths=health.OPEN | ({"/metrics"} if settings.metrics_open else set()),
        ),
        sessions=sessions,
        hosts=settings.host_names,
        read_timeout_s=settings.read_timeout_s,
        metrics=metrics,
    )
    door = Middleware(
        Door,
        limit=settings.max_in_flight,
        shared=settings.max_queue_size,
        rivals=lambda: 1 if sessions is None else len(sessions.keys),
        full=full,
        seconds_for=seconds_for,
        metrics=metrics,
    )
    return [*spans, frame, guard, Middleware(LoginLimit, metrics=metrics), door]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service; models load when it starts, and a model that cannot load stops the start.

    `app.state.parts` is an `AppState` from then on. Beside it stand what the server itself changes:
    `draining`, and the `failure` that stopped the start.
    """
    settings = settings or Settings()
    tracing = open_tracing() if settings.tracing else None
    metrics = Metrics(None if tracing is None else tracing.stage)
    sessions = None if settings.auth == "off" else Sessions(KeyRing(settings.keys_file))
    state = State({"parts": None, "draining": False, "failure": None, "pools": ()})
    app = FastAPI(
        title="Maskline",
        version=version("maskline"),
        description=_DESCRIPTION,
        lifespan=lambda app: _running(app, settings, metrics, sessions),
        middleware=_middleware(state, settings, metrics, sessions, tracing=tracing),
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours: service.http.tracing
    )
    app.state = state
    for module in _ROUTES:
        app.include_router(module.router)
    install(app, metrics)
    app.openapi = _documented(app)  # type: ignore[method-assign]
    return app
