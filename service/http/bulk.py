"""Many images in one request, each with its own status: a bad one is an item, not the end."""

from functools import partial
from typing import TypeVar

from starlette.requests import Request

from service.concurrency import in_turns
from service.http.answering import in_time
from service.http.body import read_images
from service.http.counted import CountedRequest
from service.http.disconnect import while_wanted
from service.http.problems import code_of, document, rule_of
from service.inspector import Inspector
from service.schemas.scoring import BatchItemOut, BatchOut, Problem, ScoreOut, ScoreQuery
from service.timings import Timings, first_stage

T = TypeVar("T")
_GRACE_S = 5.0


async def inspect_all(inspector: Inspector, request: Request, query: ScoreQuery) -> BatchOut:
    """Answer for every file part, in order. Raises what concerns the request as a whole."""
    deadline, caller = inspector.deadline_of(query), getattr(request.state, "key", None)
    settings = inspector.settings
    inspector.engine.registry.find(query.model)
    with inspector.budget.open(bulk=True) as charge:
        counted = CountedRequest(request, charge)
        reading = read_images(
            counted, max_bytes=settings.max_bulk_bytes, max_images=settings.max_bulk_images
        )
        images = await in_time(inspector, reading)
        # Each image has the deadline by itself; the whole only ends early when the client leaves.
        timings = [Timings("decode") for _ in images]
        async with while_wanted(request, deadline + _GRACE_S, lambda: first_stage(timings)):
            outcomes = await in_turns(
                [
                    partial(
                        inspector.inspect_once,
                        data,
                        query,
                        deadline,
                        image_timings,
                        caller=caller,
                        item=number,
                    )
                    for number, ((_, _, data), image_timings) in enumerate(
                        zip(images, timings, strict=True)
                    )
                ]
            )
    return BatchOut(
        items=[
            _item(inspector, name, outcome)
            for (_, name, _), outcome in zip(images, outcomes, strict=True)
        ]
    )


def _item(inspector: Inspector, name: str, outcome: ScoreOut | BaseException) -> BatchItemOut:
    """Tell a result or an error that has a rule; any other is the request's."""
    if isinstance(outcome, ScoreOut):
        return BatchItemOut(image=name, status="ok", result=outcome)
    rule = rule_of(outcome)
    if rule is None:
        raise outcome
    inspector.metrics.rejected.labels(rule.reason).inc()
    problem = Problem(**document(rule.status, code_of(outcome, rule), str(outcome)))
    return BatchItemOut(image=name, status="error", error=problem)
