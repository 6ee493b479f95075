import base64
import threading

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http import answering
from service.http.answer_json import is_short, write
from service.schemas.scoring import BatchItemOut, BatchOut, HeatmapOut, ModelRef, Problem, ScoreOut
from tests.conftest import normal_pixels, png
from tests.service.conftest import score_out

PROBLEM = Problem(type="t", status=400, code="c", detail='"data":""')
HEATMAPS = st.none() | st.binary(max_size=50).map(
    lambda data: HeatmapOut(
        kind="png",
        media_type="image/png",
        data=base64.b64encode(data).decode(),
        height=1,
        width=2,
        threshold=0.5,
    )
)


@st.composite
def scores(draw: st.DrawFn) -> ScoreOut:
    text = st.text(max_size=9) | st.just('"data":""')
    return score_out(
        score=1.5,
        heatmap=draw(HEATMAPS),
        model=ModelRef(name=draw(text), version="v", digest="d", calibration="c"),
        part_id=draw(st.none() | text),
        result_id=draw(text),
    )


@settings(max_examples=100, deadline=None)
@given(scores(), st.lists(scores() | st.none(), max_size=4), st.text(max_size=9))
def test_pieces_are_the_json_of_the_whole(
    one: ScoreOut, many: list[ScoreOut | None], name: str
) -> None:
    assert write(one) == one.model_dump_json().encode()
    items = [
        BatchItemOut(image=name, status="error", error=PROBLEM)
        if answer is None
        else BatchItemOut(image=name, status="ok", result=answer)
        for answer in many
    ]
    batch = BatchOut(items=items)
    assert write(batch) == batch.model_dump_json().encode()


def test_answers_with_large_pictures_are_written_beside_the_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def noted(answer: ScoreOut | BatchOut) -> bytes:
        names.append(threading.current_thread().name)
        return write(answer)

    monkeypatch.setattr(answering, "write", noted)
    monkeypatch.setattr(answering, "is_short", lambda answer: answer.heatmap is None)
    image = png(normal_pixels(6000))
    assert client.post("/score?heatmap=overlay", content=image).status_code == 200
    assert client.post("/score?heatmap=none", content=image).status_code == 200
    assert names[0] == "parse"
    assert names[1] != "parse"


def test_what_is_short_is_written_at_once() -> None:
    large = HeatmapOut.model_construct(data="A" * 200_000)
    assert is_short(ScoreOut.model_construct(heatmap=None))
    assert not is_short(ScoreOut.model_construct(heatmap=large))
    assert not is_short(BatchOut(items=[]))
