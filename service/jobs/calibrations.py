"""Calibrations as jobs: in this process and in memory.

A restart loses those that run; nothing was staged then, and nothing is left behind.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

from record.result import JsonObject
from service.errors import JobEnded, JobsFull, JobUnknown
from service.events import Publish, unheard
from service.jobs.job import (
    EVENT,
    Job,
    JobError,
    JobProgress,
    State,
    new_id,
    now,
)
from service.logs import ACTOR

_log = logging.getLogger(__name__)
_MOST_AT_ONCE = 4
_MOST_JOBS = 50
_BETWEEN_S = 0.5  # two events of one job

Explain = Callable[[BaseException], tuple[str, str]]


class Judging:
    """How far a calibration is with looking at its images; `settle` is where it cannot be stopped.

    The one that nobody follows counts for itself.
    """

    def __init__(self, changed: Callable[["Judging"], None] = lambda judging: None) -> None:
        self.done = 0
        self.total: int | None = None
        self.is_settled = False
        self.began = time.monotonic()
        self._changed = changed

    def count(self, done: int, total: int) -> None:
        """Say how many images were looked at, and how many there are."""
        self.done, self.total = done, total
        self._changed(self)

    def settle(self) -> None:
        """Say that a version is saved from here on."""
        self.is_settled = True

    @property
    def progress(self) -> JobProgress:
        """The same as a job says it."""
        passed_s = time.monotonic() - self.began
        rate = self.done / passed_s if self.done and passed_s else None
        left_s = None if rate is None or self.total is None else (self.total - self.done) / rate
        return JobProgress(
            "calibration",
            self.done,
            self.total,
            None if rate is None else round(rate, 1),
            None if left_s is None else round(left_s, 1),
        )


Work = Callable[[Judging], Awaitable[JsonObject]]


@dataclass(slots=True)
class _Calibration:
    job: Job
    judging: Judging = field(default_factory=Judging)
    task: "asyncio.Task[None] | None" = None
    told_at: float = 0.0


class Calibrations:
    """Runs a few at a time and remembers the last ones; `explain` puts an error into words."""

    def __init__(self, explain: Explain, *, publish: Publish = unheard) -> None:
        self._explain = explain
        self._publish = publish
        self._calibrations: dict[str, _Calibration] = {}

    def jobs(self) -> Iterator[Job]:
        """Yield all that are remembered."""
        return (calibration.job for calibration in list(self._calibrations.values()))

    def find(self, job_id: str) -> Job:
        """Return one; raises `JobUnknown`."""
        if job_id not in self._calibrations:
            raise JobUnknown(f"there is no job {job_id[:80]!r}; it may be too old")
        return self._calibrations[job_id].job

    def start(self, model: str, work: Work, close: Callable[[], None] = lambda: None) -> Job:
        """Run a calibration in the background, and `close` what it holds however it ends.

        Raises `JobsFull`.
        """
        try:
            self.check_room()
        except JobsFull:
            close()
            raise
        job = Job(new_id(), "calibration", model, ACTOR.get(), "running", now(), now())
        calibration = _Calibration(job)
        calibration.judging = Judging(lambda judging: self._advance(calibration))
        self._calibrations[job.id] = calibration
        self._tell(calibration)
        calibration.task = asyncio.create_task(self._run(calibration, work))
        calibration.task.add_done_callback(lambda task: self._close(calibration, close))
        ended = [entry.job.id for entry in self._calibrations.values() if entry.job.has_ended]
        for job_id in ended[: max(0, len(self._calibrations) - _MOST_JOBS)]:
            del self._calibrations[job_id]
        return job

    def check_room(self) -> None:
        """Raise `JobsFull` where as many run as may."""
        running = sum(not entry.job.has_ended for entry in self._calibrations.values())
        if running >= _MOST_AT_ONCE:
            raise JobsFull(f"{running} calibrations run, as many as may; wait for one of them")

    async def stop(self, job_id: str) -> Job:
        """End a calibration that still looks at images; raises `JobEnded` later on."""
        job = self.find(job_id)
        calibration = self._calibrations[job_id]
        if job.has_ended or calibration.judging.is_settled or calibration.task is None:
            raise JobEnded(f"job {job_id} is past the point where it can be stopped ({job.state})")
        calibration.task.cancel()
        await asyncio.wait([calibration.task])
        return calibration.job

    async def close(self) -> None:
        """End those that run."""
        tasks = [entry.task for entry in self._calibrations.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, calibration: _Calibration, work: Work) -> None:
        try:
            result = await work(calibration.judging)
        except asyncio.CancelledError:
            self._end(calibration, "stopped")
        except Exception as error:  # noqa: BLE001  (nobody waits who could be told otherwise)
            code, detail = self._explain(error)
            if code == "internal":
                _log.error("a calibration failed", exc_info=error)
            self._end(calibration, "failed", error=JobError(code, detail))
        else:
            self._end(calibration, "done", result=result)

    def _close(self, calibration: _Calibration, close: Callable[[], None]) -> None:
        close()
        if not calibration.job.has_ended:  # cancelled before it began
            self._end(calibration, "stopped")

    def _end(
        self,
        calibration: _Calibration,
        state: State,
        *,
        result: JsonObject | None = None,
        error: JobError | None = None,
    ) -> None:
        calibration.job = replace(
            calibration.job,
            state=state,
            result=result,
            error=error,
            ended_at=now(),
            progress=calibration.judging.progress,
        )
        self._tell(calibration)

    def _advance(self, calibration: _Calibration) -> None:
        if time.monotonic() - calibration.told_at >= _BETWEEN_S:
            calibration.job = replace(calibration.job, progress=calibration.judging.progress)
            self._tell(calibration)

    def _tell(self, calibration: _Calibration) -> None:
        calibration.told_at = time.monotonic()
        self._publish(EVENT, calibration.job.as_json())
