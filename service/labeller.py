"""One image from bytes to what a model of labels says: decode, queue, inference. Knows no HTTP.

It goes through the same pool, budget and queue as an inspection; it is not recorded, bends no
metric of anomalies and gives no verdict.
"""

from functools import partial

from service.errors import NotForLabels
from service.inference.engine import Work
from service.inference.queue import Priority
from service.inspector import Inspector
from service.schemas.labels import SupervisedOut
from service.schemas.scoring import ScoreQuery
from service.timings import Timings

_MASK_BYTES_PER_PX = 8  # what bringing a mask to the caller's pixels and counting its runs holds


async def label_image(
    inspector: Inspector, data: bytes, query: ScoreQuery, *, deadline: float, timings: Timings
) -> SupervisedOut:
    """Answer for one image with the model of labels that the query names.

    Raises `NotForLabels`, or what an inspection raises.
    """
    if query.threshold is not None or query.false_alarm_rate is not None:
        raise NotForLabels(
            "a model of labels has no threshold: leave out 'threshold' and 'false_alarm_rate'"
        )
    model = inspector.engine.labels.find(query.model or "")
    config, metrics = model.bundle.config.encoder.preprocess, inspector.metrics
    priority = Priority[query.priority.upper()]
    with inspector.engine.reserve(model, priority, deadline) as reservation:
        with metrics.timed("decode", timings):
            canvas, placement, _ = await inspector.in_pool(partial(inspector.placed, data, config))
        timings.stage = "queue"
        outcome = await inspector.engine.label(model, Work(canvas, placement), reservation)
    metrics.observe_stage("queue", outcome.queue_s, timings, ended_s_ago=outcome.inference_s)
    metrics.observe_stage("inference", outcome.inference_s, timings)
    with metrics.timed("encode", timings), inspector.budget.open() as charge:
        if outcome.result.mask is not None:
            height, width = placement.source
            charge.add(_MASK_BYTES_PER_PX * height * width)
        answer = await inspector.in_pool(
            partial(SupervisedOut.of, outcome.result, model.bundle, query, {})
        )
    return answer.model_copy(update={"timings": dict(timings.seconds)})
