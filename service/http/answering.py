"""One request to its answer: read the body, inspect while somebody waits, write."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from service.concurrency import in_thread
from service.errors import BodyTooSlow
from service.http.answer_json import is_short, write
from service.http.body import read_image
from service.http.counted import CountedRequest
from service.http.disconnect import while_wanted
from service.inference.inspection import Inspection
from service.inference.queue import Priority
from service.inspector import Inspector
from service.labeller import label_image
from service.schemas.labels import SupervisedOut
from service.schemas.scoring import BatchOut, ScoreOut, ScoreQuery
from service.timings import Timings

T = TypeVar("T")


async def inspect_request(inspector: Inspector, request: Request, query: ScoreQuery) -> ScoreOut:
    """Answer one request: read, decode, queue, infer, encode.

    A request that repeats an idempotency key is answered with what the first one was.
    """
    caller = getattr(request.state, "key", None)
    inspect = partial(inspector.inspect_once, caller=caller)
    return await _while_wanted(inspector, request, query, inspect)


async def label_request(inspector: Inspector, request: Request, query: ScoreQuery) -> SupervisedOut:
    """Answer one request to a model of labels."""

    def label(
        data: bytes, query: ScoreQuery, deadline: float, timings: Timings
    ) -> Awaitable[SupervisedOut]:
        return label_image(inspector, data, query, deadline=deadline, timings=timings)

    return await _while_wanted(inspector, request, query, label)


async def detect_request(inspector: Inspector, request: Request, query: ScoreQuery) -> Inspection:
    """Do the same up to the detection, for answers of another shape."""
    return await _while_wanted(inspector, request, query, inspector.detect)


async def in_time(inspector: Inspector, reading: Awaitable[T]) -> T:
    """Read a body, but not for ever; raises `BodyTooSlow`."""
    limit = inspector.settings.read_timeout_s
    try:
        async with asyncio.timeout(limit):
            return await reading
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {limit:g} s") from None


async def written(inspector: Inspector, answer: ScoreOut | SupervisedOut | BatchOut) -> bytes:
    """Write an answer as JSON; one with pictures in a thread."""
    if is_short(answer):
        return write(answer)
    return await in_thread(inspector.parsers, lambda: write(answer))


async def _while_wanted(
    inspector: Inspector,
    request: Request,
    query: ScoreQuery,
    inspect: Callable[[bytes, ScoreQuery, float, Timings], Awaitable[T]],
) -> T:
    """Read the request's image and inspect it while somebody waits."""
    timings = Timings()
    deadline = inspector.deadline_of(query)
    if query.idempotency_key is None:  # a repeat needs no turn of the device
        # Before anything is read.
        inspector.engine.admit(Priority[query.priority.upper()], deadline)
    with inspector.budget.open() as charge:
        counted = CountedRequest(request, charge)
        data = await _read(inspector, counted, query, timings)
        async with while_wanted(request, deadline, lambda: timings.stage):
            return await inspect(data, query, deadline, timings)


async def _read(
    inspector: Inspector, request: CountedRequest, query: ScoreQuery, timings: Timings
) -> bytes:
    engine = inspector.engine  # an unknown name is told before the body is read
    if not engine.labels.has(query.model):
        engine.registry.find(query.model)
    with inspector.metrics.timed("read", timings):
        return await in_time(inspector, read_image(request, inspector.settings.max_body_bytes))
