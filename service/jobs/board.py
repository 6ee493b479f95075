"""All jobs in one place, whatever their kind."""

from dataclasses import dataclass

from service.errors import JobNotResumable, JobUnknown
from service.jobs.calibrations import Calibrations
from service.jobs.job import Job
from service.jobs.trainings import Trainings

_MOST_LISTED = 150


@dataclass(frozen=True, slots=True)
class Jobs:
    """Trainings and calibrations by their id."""

    trainings: Trainings
    calibrations: Calibrations

    def newest(self) -> list[Job]:
        """Return all that are remembered, the newest first."""
        jobs = [*self.trainings.jobs(), *self.calibrations.jobs()]
        return sorted(jobs, key=lambda job: job.id, reverse=True)[:_MOST_LISTED]

    def find(self, job_id: str) -> Job:
        """Return one job; raises `JobUnknown`."""
        if (job := self._training(job_id)) is not None:
            return job
        return self.calibrations.find(job_id)

    async def stop(self, job_id: str) -> Job:
        """Stop one; raises `JobUnknown` or `JobEnded`."""
        if self._training(job_id) is not None:
            return await self.trainings.stop(job_id)
        return await self.calibrations.stop(job_id)

    async def resume(self, job_id: str) -> Job:
        """Go on with a training; raises `JobUnknown` or `JobNotResumable`."""
        if self._training(job_id) is None:
            job = self.calibrations.find(job_id)
            raise JobNotResumable(f"job {job.id} is a calibration: start another one")
        return await self.trainings.resume(job_id)

    async def log(self, job_id: str) -> str:
        """Return the last lines of a job's log; a calibration has none."""
        if self._training(job_id) is None:
            self.calibrations.find(job_id)
            return ""
        return await self.trainings.log(job_id)

    async def close(self) -> None:
        """End calibrations, and leave trainings to go on."""
        await self.calibrations.close()
        self.trainings.close()

    def _training(self, job_id: str) -> Job | None:
        try:
            return self.trainings.find(job_id).job
        except JobUnknown:
            return None
