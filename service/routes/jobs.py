"""`/v1/jobs` and `POST /v1/trainings`: work that goes on while nobody waits."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse

from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.problems import problems
from service.jobs.folders import TrainingOrder
from service.jobs.job import Job
from service.jobs.trainings import recipe_names
from service.schemas.jobs import JobOut, JobsOut, TrainIn
from service.state import AppState, app_state

router = APIRouter(tags=["jobs"])

_MAY_OPERATE = [Depends(needs(Role.OPERATE))]
_RESPONSES = problems(401, 403, 404, 409, 413, 422, 429, 500, 503, 507)
_Parts = Annotated[AppState, Depends(app_state)]


@router.post(
    "/v1/trainings",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    status_code=202,
)
async def train(train_in: TrainIn, parts: _Parts) -> JobOut:
    """Train a model on good parts, in a process of its own; one training runs at a time.

    The model is staged in the end, or serves where it is the first of its name.
    """
    parts.registry.check_place(train_in.model)
    if train_in.dataset is not None:
        data = await asyncio.to_thread(parts.datasets.folder, train_in.dataset)
    else:
        data = await asyncio.to_thread(parts.datasets.allowed_folder, train_in.folder or "")
    order = TrainingOrder(
        train_in.model,
        str(data),
        train_in.dataset,
        recipe=train_in.recipe,
        false_alarm_rate=train_in.false_alarm_rate,
        settings=train_in.overrides,
    )
    return job_out(await parts.jobs.trainings.start(order))


@router.get("/v1/jobs", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=SECURED)
async def list_jobs(parts: _Parts) -> JobsOut:
    """List trainings and calibrations, the newest first."""
    recipes = await asyncio.to_thread(recipe_names)
    return JobsOut(jobs=[job_out(job) for job in parts.jobs.newest()], recipes=recipes)


@router.get(
    "/v1/jobs/{job_id}", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=SECURED
)
async def read_job(job_id: str, parts: _Parts) -> JobOut:
    """Say how far a job is, or how it ended."""
    return job_out(parts.jobs.find(job_id))


@router.get(
    "/v1/jobs/{job_id}/log",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    response_class=PlainTextResponse,
)
async def read_log(job_id: str, parts: _Parts) -> PlainTextResponse:
    """Return the last 64 KB of what a training said."""
    headers = {"X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(await parts.jobs.log(job_id), headers=headers)


@router.post(
    "/v1/jobs/{job_id}:stop",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def stop(job_id: str, parts: _Parts) -> JobOut:
    """Stop a job; a training ends within seconds, and `:resume` goes on from its checkpoint."""
    return job_out(await parts.jobs.stop(job_id))


@router.post(
    "/v1/jobs/{job_id}:resume",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def resume(job_id: str, parts: _Parts) -> JobOut:
    """Queue a stopped or failed training again."""
    return job_out(await parts.jobs.resume(job_id))


def job_out(job: Job) -> JobOut:
    """Say a job as the API does."""
    return JobOut.model_validate(job.as_json())
