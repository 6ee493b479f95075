"""Trainings: each is `maskline train` in a process of its own, one at a time.

The process outlives the page and the service; a service that starts anew finds it running or ended.
All methods run on the event loop and leave the disk to threads.
"""

import asyncio
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly.errors import AnomalyError
from record.audit import Audit, AuditBroken
from record.result import JsonObject
from service.errors import (
    AuditUnwritable,
    JobEnded,
    JobExists,
    JobNotResumable,
    JobsFull,
    JobUnknown,
    RecipeUnknown,
    ServiceError,
    StorageFailed,
)
from service.events import Publish, unheard
from service.jobs import process
from service.jobs.folders import JobFolders, Training, TrainingOrder
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
_EVERY_S = 0.5  # between two looks at the process, and so between two events
_GRACE_S = 10.0  # from SIGTERM to SIGKILL
_MOST_WAITING = 8
_MOST_JOBS = 100
_MOST_RESUMABLE = 5  # ended jobs whose checkpoints stay: they are large
_RECIPES = Path(__file__).parents[2] / "training" / "recipes"
_ERROR_LINE = re.compile(r"^error \[([a-z_]+)\]: (.+)$", re.MULTILINE)
_LINES_SHOWN = 5

Adopt = Callable[[Training, Path], Awaitable[JsonObject]]
Command = Callable[[TrainingOrder, Path, bool], list[str]]


def train_command(order: TrainingOrder, folder: Path, resumes: bool) -> list[str]:  # noqa: FBT001
    """Return the command line of a training that works in `folder`."""
    command = [sys.executable, "-P", "-m", "cli", "train", order.data]
    command += ["--out", str(folder / "model"), "--recipe", order.recipe]
    command += ["--progress-file", str(folder / "progress.json")]
    if order.false_alarm_rate is not None:
        command += ["--false-alarm-rate", repr(order.false_alarm_rate)]
    for setting in order.settings:
        command += ["--set", setting]
    return [*command, "--resume"] if resumes else command


class Trainings:
    """Queues trainings, watches the one that runs, and hands a finished model to `adopt`."""

    def __init__(
        self,
        folders: JobFolders,
        adopt: Adopt,
        audit: Audit | None = None,
        *,
        publish: Publish = unheard,
        command: Command = train_command,
    ) -> None:
        self._folders = folders
        self._adopt = adopt
        self._audit = audit
        self._publish = publish
        self._command = command
        self._trainings: dict[str, Training] = {}
        self._claiming, self._ordering = asyncio.Lock(), asyncio.Lock()

    async def open(self) -> None:
        """Find the jobs of before, if there were any and no other service has them."""
        if self._folders.exist:
            try:
                await self._claim()
            except ServiceError as error:
                _log.warning("%s", error)

    async def run(self) -> None:
        """Watch for as long as the service runs."""
        while True:
            await self.tick()
            await asyncio.sleep(_EVERY_S)

    def jobs(self) -> Iterator[Job]:
        """Yield all trainings."""
        return (training.job for training in list(self._trainings.values()))

    def find(self, job_id: str) -> Training:
        """Return a training; raises `JobUnknown`."""
        training = self._trainings.get(job_id)
        if training is None:
            raise JobUnknown(f"there is no job {job_id[:80]!r}; it may be too old")
        return training

    def reads(self, dataset: str) -> bool:
        """Whether a training that has not ended reads a set."""
        return any(
            training.order.dataset == dataset and not training.job.has_ended
            for training in self._trainings.values()
        )

    async def start(self, order: TrainingOrder) -> Job:
        """Queue a training.

        Raises `RecipeUnknown`, `JobExists`, `JobsFull`, `JobsElsewhere`, `StorageFailed` or
        `AuditUnwritable`.
        """
        _check_recipe(order.recipe)
        async with self._ordering:
            await self._claim()
            self._check_room(order.model)
            job = Job(new_id(), "training", order.model, ACTOR.get(), created_at=now())
            training = Training(job, order)
            await self._note("train_queued", training, data=order.data, recipe=order.recipe)
            await self._keep(training)
            self._trainings[job.id] = training
            await self._forget_old()
        return job

    async def stop(self, job_id: str) -> Job:
        """Take a training out of the queue, or end its process; raises `JobEnded`."""
        training = self.find(job_id)
        if training.job.has_ended or training.is_ending:
            raise JobEnded(f"job {job_id} has ended ({training.job.state}): nothing is to stop")
        await self._note("train_stop", training)
        if training.job.state == "waiting":
            await self._finish(training, "stopped")
        elif training.stop_asked_at is None:
            training.stop_asked_at = time.time()
            await asyncio.to_thread(self._folders.save, training)
            await asyncio.to_thread(self._signal, training, signal.SIGTERM)
        return training.job

    async def resume(self, job_id: str) -> Job:
        """Queue a stopped or failed training again: it goes on from its last checkpoint.

        Raises `JobNotResumable`, `JobExists` or `JobsFull`.
        """
        training = self.find(job_id)
        if training.job.state not in ("stopped", "failed"):
            raise JobNotResumable(f"job {job_id} is {training.job.state}: nothing is to resume")
        async with self._ordering:
            self._check_room(training.order.model)
            await self._note("train_resume", training)
            training.stop_asked_at, training.resumed, training.is_ending = None, True, False
            training.job = job = replace(
                training.job, state="waiting", ended_at=None, error=None, progress=JobProgress()
            )
            await self._keep(training)
        return job  # as it was queued: it may run by now

    async def log(self, job_id: str) -> str:
        """Return the last lines of a training's log."""
        return await asyncio.to_thread(self._folders.log, self.find(job_id).job.id)

    async def tick(self) -> None:
        """Look once: begin what waits, follow what runs, and put away what has ended."""
        waiting = []
        for training in list(self._trainings.values()):
            if training.job.state == "running":
                await self._follow(training)
                return
            if training.job.state == "waiting":
                waiting.append(training)
        if waiting and self._folders.is_claimed:
            await self._begin(waiting[0])

    def close(self) -> None:
        """Let go of the folder; a training that runs goes on."""
        self._folders.release()

    async def _claim(self) -> None:
        async with self._claiming:
            if not self._folders.is_claimed:
                trainings = await asyncio.to_thread(self._folders.claim)
                self._trainings |= {training.job.id: training for training in trainings}

    def _check_room(self, model: str) -> None:
        waiting = [training for training in self._trainings.values() if not training.job.has_ended]
        for training in waiting:
            if training.order.model == model:
                raise JobExists(
                    f"a training of {model!r} is {training.job.state} (job {training.job.id}); "
                    "wait for it or stop it"
                )
        if len(waiting) > _MOST_WAITING:
            raise JobsFull(f"{len(waiting)} trainings wait or run, as many as may; stop one")

    async def _begin(self, training: Training) -> None:
        training.job = replace(training.job, state="running", started_at=now())
        folder = self._folders.folder(training.job.id)
        try:
            await self._keep(training)
        except StorageFailed as error:
            await self._finish(training, "failed", JobError(error.code, str(error)))
            return
        if await asyncio.to_thread(self._folders.has_model, training.job.id):
            return  # it was trained before, and only has to be put in its place
        resumes = training.resumed and self._folders.has_checkpoint(training.job.id)
        command = self._command(training.order, folder, resumes)
        try:
            await asyncio.to_thread(process.start, folder, command, folder / "log.txt")
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"the training's process cannot be started: {error}"
            await self._finish(training, "failed", JobError("training_unstartable", reason))

    async def _follow(self, training: Training) -> None:
        folder = self._folders.folder(training.job.id)
        is_alive = await asyncio.to_thread(process.is_alive, folder)
        code = await asyncio.to_thread(process.exit_code, folder)
        if not is_alive or code is not None:
            await self._end(training, code)
            return
        asked = training.stop_asked_at
        if asked is not None:
            number = signal.SIGKILL if time.time() - asked > _GRACE_S else signal.SIGTERM
            await asyncio.to_thread(self._signal, training, number)
        progress = await asyncio.to_thread(self._folders.progress, training.job.id)
        if progress is not None and progress != training.job.progress:
            training.job = replace(training.job, progress=progress)
            self._tell(training)

    def _signal(self, training: Training, number: signal.Signals) -> None:
        process.send(self._folders.folder(training.job.id), number)

    async def _end(self, training: Training, code: int | None) -> None:
        """Put a trained model in its place, or say why there is none."""
        training.is_ending = True
        job_id = training.job.id
        # Workers of a command that was killed may hang on.
        await asyncio.to_thread(self._signal, training, signal.SIGKILL)
        progress = await asyncio.to_thread(self._folders.progress, job_id)
        training.job = replace(training.job, progress=progress or JobProgress())
        has_model = await asyncio.to_thread(self._folders.has_model, job_id)
        if has_model and code in (0, None):
            await self._put_in_place(training)
        elif training.stop_asked_at is not None:
            await self._finish(training, "stopped")
        else:
            log = await self.log(job_id)
            await self._finish(training, "failed", _why(code, log))

    async def _put_in_place(self, training: Training) -> None:
        ACTOR.set(training.job.by)  # of this task alone: the audit trail names who wanted it
        try:
            result = await self._adopt(training, self._folders.model(training.job.id))
        except (AnomalyError, ServiceError) as error:
            reason = f"{error}. The trained model is kept: resume the job to try this again"
            await self._finish(training, "failed", JobError(error.code, reason))
        except Exception as error:  # noqa: BLE001  (else it would be tried for ever)
            _log.exception("the model of job %s cannot be put in its place", training.job.id)
            reason = f"the trained model cannot be put in its place ({type(error).__name__})"
            await self._finish(training, "failed", JobError("internal", reason))
        else:
            training.job = replace(training.job, result=result)
            await self._finish(training, "done")

    async def _finish(
        self, training: Training, state: State, error: JobError | None = None
    ) -> None:
        """End a job, also where the disk takes no word of it."""
        training.job = replace(training.job, state=state, error=error, ended_at=now())
        if state == "done":
            await asyncio.to_thread(self._folders.forget_work, training.job.id)
        code = None if error is None else error.code
        try:
            await self._note("train_end", training, state=state, code=code)
            await self._keep(training)
        except (AuditUnwritable, StorageFailed) as failure:
            _log.error("how job %s ended is not written down: %s", training.job.id, failure)

    async def _keep(self, training: Training) -> None:
        self._tell(training)
        await asyncio.to_thread(self._folders.save, training)

    def _tell(self, training: Training) -> None:
        self._publish(EVENT, training.job.as_json())

    async def _note(self, action: str, training: Training, **details: Any) -> None:
        """Seal into the audit trail what happens; raises `AuditUnwritable`."""
        audit, job = self._audit, training.job
        if audit is None:
            return
        by = job.by if action == "train_end" else ACTOR.get()
        try:
            await asyncio.to_thread(audit.add, action, job.model, by, job=job.id, **details)
        except (OSError, AuditBroken) as error:
            reason = getattr(error, "strerror", None) or error
            raise AuditUnwritable(
                f"the audit trail cannot be written ({reason}), so nothing is changed"
            ) from error

    async def _forget_old(self) -> None:
        """Remove jobs beyond the last hundred, and what could be resumed beyond the last few."""
        ended = [training.job.id for training in self._trainings.values() if training.job.has_ended]
        for job_id in ended[:-_MOST_RESUMABLE]:
            await asyncio.to_thread(self._folders.forget_work, job_id)
        surplus = len(self._trainings) - _MOST_JOBS
        for job_id in ended[: max(0, surplus)]:
            del self._trainings[job_id]
            await asyncio.to_thread(self._folders.remove, job_id)


def recipe_names() -> list[str]:
    """Return the recipes that a training may name."""
    names = (path.stem for path in _RECIPES.glob("*.toml"))
    return sorted(name for name in names if not name.startswith(("finetune", "pretrain", "sweep")))


def _check_recipe(name: str) -> None:
    names = recipe_names()
    if name not in names:
        raise RecipeUnknown(f"there is no recipe {name[:80]!r}; there are: {', '.join(names)}")


def _why(code: int | None, log: str) -> JobError:
    """Say why a training ended without a model."""
    lines = [line for line in log.splitlines() if line.strip()]
    if said := _ERROR_LINE.findall(log):
        error_code, detail = said[-1]
        return JobError(error_code, detail)
    if code is None or code < 0:
        by = "" if code is None else f" by {signal.Signals(-code).name}"
        return JobError(
            "training_killed",
            f"the training was killed{by}: the machine ran out of memory, restarted, or somebody "
            "ended it. Resume it to go on from its last checkpoint",
        )
    last = "\n".join(lines[-_LINES_SHOWN:])
    return JobError("training_failed", f"the training ended with exit code {code}: {last}")
