"""Many images in one request, each with its own status: a bad one is an item, not the end."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from service.body import read_images
from service.errors import code_of, document, rule_of
from service.inspection import Inspector
from service.schemas import BatchItemOut, BatchOut, Problem, ScoreQuery
from service.waiting import while_wanted

_GRACE_S = 5.0
_AT_ONCE = 8  # images of one request in decoding, queue or inference: others get their turn


async def inspect_all(inspector: Inspector, request: Request, query: ScoreQuery) -> BatchOut:
    """Answer for every file part, in order. Raises what concerns the request as a whole."""
    deadline = inspector.deadline_of(query)
    settings = inspector.settings
    inspector.engine.registry.find(query.model)
    reading = read_images(
        request, max_bytes=settings.max_bulk_bytes, max_images=settings.max_bulk_images
    )
    images = await inspector.in_time(reading)
    # Each image has the deadline by itself; the whole only ends early when the client leaves.
    async with while_wanted(request, deadline + _GRACE_S, ("read",)):
        return BatchOut(items=await _each(inspector, images, query, deadline))


async def _each(
    inspector: Inspector, images: Sequence[tuple[str, bytes]], query: ScoreQuery, deadline: float
) -> list[BatchItemOut]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str, data: bytes) -> BatchItemOut:
        async with turns:
            try:
                result = await inspector.inspect_bytes(data, query, deadline, {})
            except Exception as error:
                rule = rule_of(error)
                if rule is None:
                    raise
                inspector.metrics.rejected.labels(rule.reason).inc()
                problem = Problem(**document(rule.status, code_of(error, rule), str(error)))
                return BatchItemOut(image=name, status="error", error=problem)
            return BatchItemOut(image=name, status="ok", result=result)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(name, data)) for name, data in images]
    return [task.result() for task in tasks]
