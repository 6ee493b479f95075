"""Answers to JSON, pictures put in as they are.

Base64 needs no escaping, and a writer that looked at each byte of a hundred megabytes would hold up
every other thread of the interpreter.
"""

from pydantic import BaseModel

from service.schemas.labels import SupervisedOut
from service.schemas.scoring import BatchItemOut, BatchOut, HeatmapOut, ScoreOut

_EMPTY = b'"data":""'  # in no text of JSON, where quotes are escaped


def is_short(answer: ScoreOut | SupervisedOut | BatchOut) -> bool:
    """Whether writing takes less time than a thread takes to begin."""
    if isinstance(answer, SupervisedOut):
        return not answer.masks
    return isinstance(answer, ScoreOut) and (
        answer.heatmap is None or len(answer.heatmap.data) < 100_000
    )


def write(answer: ScoreOut | SupervisedOut | BatchOut) -> bytes:
    """Write an answer; the same bytes as pydantic's."""
    if isinstance(answer, ScoreOut):
        return _filled(_emptied(answer), answer.heatmap)
    if isinstance(answer, SupervisedOut):
        return _json(answer)
    return b'{"items":[' + b",".join(map(_item, answer.items)) + b"]}"


def _item(item: BatchItemOut) -> bytes:
    if item.result is None:
        return _json(item)
    emptied = item.model_copy(update={"result": _emptied(item.result)})
    return _filled(emptied, item.result.heatmap)


def _emptied(answer: ScoreOut) -> ScoreOut:
    if answer.heatmap is None:
        return answer
    heatmap = answer.heatmap.model_copy(update={"data": ""})
    return answer.model_copy(update={"heatmap": heatmap})


def _filled(emptied: BaseModel, heatmap: HeatmapOut | None) -> bytes:
    if heatmap is None:
        return _json(emptied)
    before, _, after = _json(emptied).partition(_EMPTY)
    return b"".join([before, b'"data":"', heatmap.data.encode("ascii"), b'"', after])


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()
