"""Bytes in flight: bounded together, and given back whatever happens."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from service.app import create_app
from service.budget import Budget
from service.errors import BudgetSpent, OverBudget
from tests.conftest import jpeg, normal_pixels, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 60)), st.booleans(), st.booleans()),
        max_size=30,
    )
)
def test_the_balance_returns_to_nothing_and_never_passes_the_total(
    requests: list[tuple[bool, list[int], bool, bool]],
) -> None:
    budget = Budget(100)
    for bulk, sizes, fails, overdraws in requests:
        try:
            with budget.open(bulk=bulk) as charge, budget.open() as beside:
                for size in sizes:
                    charge.add(size)
                    assert budget.taken_bytes <= 100
                    assert not bulk or charge.taken_bytes <= 50
                beside.add(1)
                if overdraws:
                    charge.overdraw(1000)
                if fails:
                    raise KeyError
        except (KeyError, BudgetSpent, OverBudget):
            pass
        assert budget.taken_bytes == 0
        assert budget._bulk_taken == 0


def test_threads_lose_no_byte_of_it() -> None:
    budget = Budget(1000)

    def work() -> None:
        for _ in range(2000):
            try:
                with budget.open(bulk=True) as charge:
                    charge.add(300)
                    charge.add(100)
            except BudgetSpent:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.taken_bytes, budget._bulk_taken) == (0, 0)


def test_what_never_fits_is_another_error_than_what_does_not_fit_now() -> None:
    budget = Budget(100)
    with budget.open() as first, budget.open(bulk=True) as bulk:
        with pytest.raises(OverBudget, match="MASKLINE_MAX_IN_FLIGHT_MB"):
            bulk.add(51)
        first.add(80)
        with pytest.raises(BudgetSpent) as caught:
            bulk.add(30)
        assert caught.value.retry_after_s > 0
        bulk.add(20)


def test_batches_leave_half_to_the_line() -> None:
    budget = Budget(100)
    with budget.open(bulk=True) as one, budget.open(bulk=True) as two, budget.open() as line:
        one.add(40)
        with pytest.raises(BudgetSpent):
            two.add(11)
        line.add(50)


SMALL_MB = 0.2


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> FastAPI:
    return create_app(settings(tiny_folder, max_in_flight_mb=SMALL_MB, max_body_bytes=400_000))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as open_client:
        yield open_client


def parts(*bodies: bytes) -> dict[str, Any]:
    return {"files": [("file", (f"{i}.png", one, "image/png")) for i, one in enumerate(bodies)]}


JSON = {"content-type": "application/json"}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "score": ("/score", {"content": GOOD}),
    "score multipart": ("/score", parts(GOOD)),
    "jpeg overlay": ("/score?heatmap=overlay", {"content": jpeg(normal_pixels(6000))}),
    "no image": ("/score", {"content": b"junk"}),
    "empty": ("/score", {"content": b""}),
    "too late": ("/score?deadline_ms=0.001", {"content": GOOD}),
    "batch": ("/v1/score/batch", parts(GOOD, b"junk")),
    "batch of nothing": ("/v1/score/batch", {"content": b"x" * 500}),
    "tensors": ("/v2/models/tiny/infer", {"content": b"{}", "headers": JSON}),
    "calibrate": ("/v1/models/tiny:calibrate", parts(GOOD)),
    "lookout": ("/2020-11-20/projects/tiny/models/1/detect", {"content": GOOD}),
    "lookout junk": ("/2020-11-20/projects/tiny/models/1/detect", {"content": b"junk"}),
}


@pytest.mark.parametrize("case", BODIES)
def test_every_route_gives_back_what_it_took(client: TestClient, case: str) -> None:
    path, body = BODIES[case]
    budget: Budget = client.app.state.parts.inspector.budget
    assert client.post(path, **body).status_code != 500
    _until_given_back(budget)


def _until_given_back(budget: Budget) -> None:
    """Wait for what is decoded in a thread: an answer that came too late does not wait for it."""
    until = time.monotonic() + 10
    while time.monotonic() < until and (budget.taken_bytes or budget._bulk_taken):
        time.sleep(0.001)
    assert (budget.taken_bytes, budget._bulk_taken) == (0, 0)


@pytest.mark.parametrize("case", [name for name in BODIES if name not in ("empty", "no image")])
def test_every_route_is_refused_while_others_hold_the_memory(client: TestClient, case: str) -> None:
    path, body = BODIES[case]
    budget: Budget = client.app.state.parts.inspector.budget
    with budget.open() as others:
        others.add(budget.total_bytes)
        answer = client.post(path, **body)
        if case == "jpeg overlay":
            assert budget.taken_bytes == budget.total_bytes
        assert (answer.status_code, answer.json()["code"]) == (429, "memory_in_use")
        assert int(answer.headers["Retry-After"]) >= 1
    assert budget.taken_bytes == 0
    assert 'maskline_rejected_total{reason="memory"}' in client.get("/metrics").text


@pytest.mark.parametrize(("path", "most"), [("/score", 1.0), ("/v1/score/batch", 0.5)])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_never_fits_is_too_large(
    client: TestClient, path: str, most: float, announced: bool
) -> None:
    body = b"x" * int(SMALL_MB * 1e6 * most + 1)
    headers = {"content-type": "multipart/form-data; boundary=B"} if "batch" in path else None
    answer = client.post(path, content=body if announced else iter([body]), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "memory_exceeded")
    assert client.app.state.parts.inspector.budget.taken_bytes == 0


def test_pixels_count_before_they_are_decoded(client: TestClient) -> None:
    budget: Budget = client.app.state.parts.inspector.budget
    image = png(normal_pixels(1, (300, 400)) // 64 * 64)
    assert len(image) < budget.total_bytes < 3 * 300 * 400
    answer = client.post("/score", content=image)
    assert (answer.status_code, answer.json()["code"]) == (413, "memory_exceeded")


def test_a_body_that_breaks_off_gives_back_what_it_took(client: TestClient, app: FastAPI) -> None:
    budget: Budget = app.state.parts.inspector.budget
    seen: list[int] = []

    async def receive() -> dict[str, Any]:
        if seen:
            seen.append(budget.taken_bytes)
            return {"type": "http.disconnect"}
        seen.append(budget.taken_bytes)
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def call() -> None:
        async def send(message: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b""}
        await app(scope | {"headers": [], "state": {}}, receive, send)

    client.portal.call(call)
    assert seen == [0, 1000]
    assert budget.taken_bytes == 0


def test_the_metrics_tell_what_is_held(client: TestClient, app: FastAPI) -> None:
    with app.state.parts.inspector.budget.open() as charge:
        charge.add(123)
        assert "maskline_in_flight_bytes 123.0" in client.get("/metrics").text
    assert "maskline_in_flight_bytes 0.0" in client.get("/metrics").text


def test_a_body_counts_while_its_image_is_inspected(
    client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget: Budget = app.state.parts.inspector.budget
    held: list[int] = []
    batcher = app.state.parts.inspector.engine.batcher
    plain = batcher._run

    def run(key: Any, works: Any) -> Any:
        held.append(budget.taken_bytes)
        return plain(key, works)

    monkeypatch.setattr(batcher, "_run", run)
    assert client.post("/score", content=GOOD).status_code == 200
    assert held == [len(GOOD)]


def test_an_answer_counts_until_it_is_read(client: TestClient, app: FastAPI) -> None:
    budget: Budget = app.state.parts.inspector.budget
    held: list[int] = []
    body = iter([{"type": "http.request", "body": GOOD, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in body:
            return message
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def call() -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                held.append(budget.taken_bytes - len(message["body"]))

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b""}
        await app(scope | {"headers": [], "state": {}}, receive, send)

    client.portal.call(call)
    assert held == [0]  # the answer alone; the body was given back
    assert budget.taken_bytes == 0


@tries(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_sent_nothing_stays_taken(client: TestClient, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted({path for path, _ in BODIES.values()})))
    body = data.draw(st.binary(max_size=300) | st.just(GOOD) | st.just(GOOD[:-40]))
    kind = data.draw(
        st.sampled_from(["image/png", "multipart/form-data; boundary=B", "application/json", "x/y"])
    )
    answer = client.post(path, content=body, headers={"content-type": kind})
    assert answer.status_code in (*range(200, 500), 504)
    assert client.app.state.parts.inspector.budget.taken_bytes == 0
