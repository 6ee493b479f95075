"""`/v1/datasets`: good parts to train on."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from record.result import JsonObject
from record.store import Filter
from service.concurrency import in_turns
from service.datasets import Addition
from service.errors import DatasetInUse, NothingRecorded
from service.http.answering import in_time
from service.http.api_keys import Role
from service.http.auth import SECURED, needs
from service.http.body import FILES_BODY, read_images
from service.http.counted import CountedRequest
from service.http.problems import code_of, document, problems, rule_of
from service.inspector import Inspector
from service.schemas.jobs import (
    AdditionOut,
    DatasetOut,
    DatasetsOut,
    FromResultsIn,
    RefusedFileOut,
)
from service.schemas.scoring import Problem
from service.state import AppState, app_state
from service.wire import PlainName

router = APIRouter(tags=["datasets"])

_MAY_OPERATE = [Depends(needs(Role.OPERATE))]
_RESPONSES = problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 507)
_MOST_IMAGES = 1000
_LONGEST_NAME = 200
_AT_ONCE = 16  # pictures of results in memory
_Parts = Annotated[AppState, Depends(app_state)]
_BODY: JsonObject = {
    **SECURED,
    "requestBody": FILES_BODY,
}


@router.get("/v1/datasets", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=SECURED)
async def list_datasets(parts: _Parts) -> DatasetsOut:
    """List the sets of good parts, by name."""
    datasets = parts.datasets
    listed = await asyncio.to_thread(datasets.all)
    return DatasetsOut(
        datasets=[DatasetOut.model_validate(dataset) for dataset in listed],
        max_bytes=int(datasets.most_bytes),
        folders=[str(root) for root in datasets.roots],
    )


@router.get(
    "/v1/datasets/{name}", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=SECURED
)
async def read_dataset(name: PlainName, parts: _Parts) -> DatasetOut:
    """Say how many images a set has."""
    return DatasetOut.model_validate(await asyncio.to_thread(parts.datasets.find, name))


@router.post(
    "/v1/datasets/{name}:from-results",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
)
async def copy_results(name: PlainName, which: FromResultsIn, parts: _Parts) -> AdditionOut:
    """Add the kept pictures of parts that count as good: one trains again on what the line made.

    Those that passed and nobody called a missed defect, and those that somebody called good.
    """
    recording = parts.inspector.recording
    if recording is None:
        raise NothingRecorded("this service keeps no results (MASKLINE_RECORD=off); send images")
    filter_ = Filter(**which.model_dump(exclude={"limit"}))
    results = await recording.reader.kept_normals(filter_, which.limit, {})
    added = copies = missing = 0
    for first in range(0, len(results), _AT_ONCE):
        pictures = [await recording.image(result) for result in results[first : first + _AT_ONCE]]
        images = [picture for picture in pictures if picture is not None]
        addition = await asyncio.to_thread(parts.datasets.add, name, images)
        added, copies = added + addition.added, copies + addition.copies
        missing += len(pictures) - len(images)
    end = await asyncio.to_thread(parts.datasets.add, name, [])
    return _out(Addition(end.dataset, added, copies), missing=missing)


@router.post(
    "/v1/datasets/{name}", dependencies=_MAY_OPERATE, responses=_RESPONSES, openapi_extra=_BODY
)
async def upload(request: Request, name: PlainName, parts: _Parts) -> AdditionOut:
    """Add images of good parts, the file parts of one multipart body; repeated calls add more.

    What is no image is refused by its index, and the others are taken.
    """
    inspector = parts.inspector
    with inspector.budget.open(bulk=True) as charge:
        reading = read_images(
            CountedRequest(request, charge),
            max_bytes=inspector.settings.max_bulk_bytes,
            max_images=_MOST_IMAGES,
        )
        files = await in_time(inspector, reading)
        checked = await in_turns([partial(inspector.check, data) for _, _, data in files])
        refused = [
            _refused(inspector, index, files[index][1], error)
            for index, error in enumerate(checked)
            if error is not None
        ]
        images = [data for (_, _, data), error in zip(files, checked, strict=True) if error is None]
        addition = await asyncio.to_thread(parts.datasets.add, name, images)
    return _out(addition, refused=refused)


@router.delete(
    "/v1/datasets/{name}",
    dependencies=_MAY_OPERATE,
    responses=_RESPONSES,
    openapi_extra=SECURED,
    status_code=204,
)
async def remove(name: PlainName, parts: _Parts) -> None:
    """Remove a set and its images; not while a training reads it (409 `dataset_in_use`)."""
    if parts.jobs.trainings.reads(name):
        raise DatasetInUse(f"a training reads {name!r}; wait for it or stop it")
    await asyncio.to_thread(parts.datasets.remove, name)


def _refused(inspector: Inspector, index: int, name: str, error: BaseException) -> RefusedFileOut:
    """Tell an error that has a rule; any other is the request's."""
    rule = rule_of(error)
    if rule is None:
        raise error
    inspector.metrics.rejected.labels(rule.reason).inc()
    problem = Problem(**document(rule.status, code_of(error, rule), str(error)))
    return RefusedFileOut(index=index, file=name[:_LONGEST_NAME], error=problem)


def _out(
    addition: Addition, *, refused: list[RefusedFileOut] | None = None, missing: int = 0
) -> AdditionOut:
    dataset = addition.dataset
    return AdditionOut(
        dataset=None if dataset is None else DatasetOut.model_validate(dataset),
        added=addition.added,
        copies=addition.copies,
        refused=refused or [],
        missing=missing,
    )
