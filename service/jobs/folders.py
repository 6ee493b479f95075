"""Trainings on the disk: one folder each, which a restart of the service finds again.

<root>/lock                   held by the service that runs the jobs
<root>/<id>/job.json          the job and its order
<root>/<id>/log.txt           what its command said
<root>/<id>/progress.json     how far it is
<root>/<id>/lock, process, exit    see `service.jobs.apart`
<root>/<id>/model, model.run  the model and its checkpoint, until it is where models lie
"""

import json
import logging
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from anomaly.folders import is_plain_name
from anomaly.manifest import MANIFEST
from record.lock import FileLock, LockHeld
from record.result import JsonObject
from service.errors import JobsElsewhere, StorageFailed
from service.jobs.job import Job, JobProgress

_log = logging.getLogger(__name__)
_MOST_LOG_BYTES = 65536


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """What a training is to do: `data` is a folder, `dataset` the name of the set that it is."""

    model: str
    data: str
    dataset: str | None = None
    recipe: str = "default"
    false_alarm_rate: float | None = None
    settings: tuple[str, ...] = ()


@dataclass(slots=True)
class Training:
    """A training as the service knows it; `resumed`: it goes on from its checkpoint."""

    job: Job
    order: TrainingOrder
    stop_asked_at: float | None = None  # seconds since the epoch: it outlives a restart
    resumed: bool = False
    is_ending: bool = False


class JobFolders:
    """Reads and writes them; every method belongs into a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = FileLock(root / "lock")
        self._saving = threading.Lock()
        self.is_claimed = False

    def claim(self) -> list[Training]:
        """Hold the folder and read what lies in it.

        Raises `JobsElsewhere` where another service holds it, or `StorageFailed`.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except LockHeld as error:
            raise JobsElsewhere(
                f"another service runs trainings there ({error}); ask that one, or give this one "
                "a folder of its own with MASKLINE_JOBS_DIR"
            ) from error
        except OSError as error:
            raise self._failed(error) from error
        self.is_claimed = True
        return self._read_all()

    def release(self) -> None:
        """Let another service have the folder."""
        self._lock.release()
        self.is_claimed = False

    @property
    def exist(self) -> bool:
        """Whether there were jobs before."""
        return self._root.is_dir()

    def folder(self, job_id: str) -> Path:
        """Return a job's folder."""
        return self._root / job_id

    def model(self, job_id: str) -> Path:
        """Return where a job writes its model."""
        return self._root / job_id / "model"

    def has_model(self, job_id: str) -> bool:
        """Whether the job's model is whole: its folder appears as a whole."""
        return (self.model(job_id) / MANIFEST).is_file()

    def has_checkpoint(self, job_id: str) -> bool:
        """Whether something was begun that can be gone on with."""
        return (self._root / job_id / "model.run").is_dir()

    def save(self, training: Training) -> None:
        """Write a job's state; raises `StorageFailed`."""
        values = {
            "job": training.job.as_json(),
            "order": asdict(training.order),
            "stop_asked_at": training.stop_asked_at,
            "resumed": training.resumed,
        }
        path = self.folder(training.job.id) / "job.json"
        staging = path.with_name(".job.json.new")
        try:
            with self._saving:
                path.parent.mkdir(exist_ok=True)
                staging.write_text(json.dumps(values, indent=2), encoding="utf-8")
                staging.replace(path)
        except OSError as error:
            raise self._failed(error) from error

    def progress(self, job_id: str) -> JobProgress | None:
        """Read how far a job is, as its command says."""
        with suppress(OSError, ValueError, TypeError):
            values = json.loads((self.folder(job_id) / "progress.json").read_bytes())
            return JobProgress(**values)
        return None

    def log(self, job_id: str) -> str:
        """Return the last lines that a job's command said."""
        try:
            with (self.folder(job_id) / "log.txt").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_LOG_BYTES))
                return file.read(_MOST_LOG_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    def forget_work(self, job_id: str) -> None:
        """Remove a job's checkpoint and model; its log stays."""
        for name in ("model", "model.run"):
            shutil.rmtree(self.folder(job_id) / name, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all of a job."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def _read_all(self) -> list[Training]:
        paths = sorted(self._root.glob("*/job.json"))
        read = (_read(path) for path in paths if is_plain_name(path.parent.name))
        return [training for training in read if training is not None]

    def _failed(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"{self._root} cannot be written to ({error.strerror or error}); free some space, or "
            "make the folder writable (MASKLINE_JOBS_DIR)"
        )


def _read(path: Path) -> Training | None:
    try:
        values: JsonObject = json.loads(path.read_bytes())
        order = values["order"]
        job = Job.of_json(values["job"])
        if job.id != path.parent.name:
            raise ValueError(f"it is of job {job.id}")
        return Training(
            job,
            TrainingOrder(**(order | {"settings": tuple(order["settings"])})),
            values["stop_asked_at"],
            values["resumed"],
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _log.warning("%s is no job (%s), and is left alone", path, error)
        return None
