"""What a caller sees when something goes wrong underneath."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.inference.engine import is_out_of_memory
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))

Run = Callable[[Hashable, Sequence[Any]], Sequence[Any]]


class Held:
    """Stands in front of an engine's inference: holds it up, breaks it, remembers what came."""

    def __init__(self, app: FastAPI) -> None:
        batcher = app.state.parts.inspector.engine.batcher
        self._behind: Run = batcher._run
        batcher._run = self
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []

    def __call__(self, key: Hashable, works: Sequence[Any]) -> Sequence[Any]:
        self.sizes.append(len(works))
        self.gate.wait(20)
        return self._behind(key, works)

    def wait_until_busy(self) -> None:
        until = time.monotonic() + 10
        while not self.sizes and time.monotonic() < until:
            time.sleep(0.005)


@pytest.fixture
def client(tiny_folder: Path) -> Iterator[TestClient]:
    app = create_app(
        settings(tiny_folder, parallel_batches=1, read_timeout_s=0.2, stall_after_s=0.3)
    )
    with TestClient(app, raise_server_exceptions=False) as open_client:
        yield open_client


def post(app: FastAPI, receive: Callable[[], Awaitable[dict[str, Any]]]) -> Any:
    """Return a coroutine function that sends one request by hand and returns the answer."""

    async def call() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b""}
        await app(scope | {"headers": [], "state": {}}, receive, send)
        return sent

    return call


def test_a_client_that_leaves_is_skipped_and_counted(client: TestClient) -> None:
    held = Held(client.app)
    held.gate.clear()
    background = threading.Thread(target=client.post, args=("/score",), kwargs={"content": GOOD})
    background.start()
    held.wait_until_busy()
    step = 0

    async def receive() -> dict[str, Any]:
        nonlocal step
        step += 1
        if step == 1:
            return {"type": "http.request", "body": GOOD, "more_body": False}
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    [start, _] = client.portal.call(post(client.app, receive))
    assert start["status"] == 400
    held.gate.set()
    background.join()
    assert client.post("/score", content=GOOD).status_code == 200
    assert held.sizes == [1, 1]  # nothing was computed for the one that left
    assert 'maskline_abandoned_total{stage="queue"} 1.0' in client.get("/metrics").text


def test_a_deadline_is_kept_even_while_the_device_is_busy(client: TestClient) -> None:
    held = Held(client.app)
    held.gate.clear()
    background = threading.Thread(target=client.post, args=("/score",), kwargs={"content": GOOD})
    background.start()
    held.wait_until_busy()
    started = time.monotonic()
    late = client.post("/score?deadline_ms=50", content=GOOD)
    assert time.monotonic() - started < 1
    assert (late.status_code, late.json()["code"]) == (504, "deadline_missed")
    held.gate.set()
    background.join()
    assert client.post("/score?deadline_ms=5000", content=GOOD).status_code == 200
    assert held.sizes == [1, 1]
    assert 'maskline_rejected_total{reason="deadline"} 1.0' in client.get("/metrics").text


def test_a_batch_that_hangs_fails_readiness_until_it_ends(client: TestClient) -> None:
    held = Held(client.app)
    held.gate.clear()
    background = threading.Thread(target=client.post, args=("/score",), kwargs={"content": GOOD})
    background.start()
    held.wait_until_busy()
    time.sleep(0.35)
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    held.gate.set()
    background.join()
    until = time.monotonic() + 10
    while client.get("/health/ready").status_code != 200:
        assert time.monotonic() < until


def test_a_body_that_does_not_arrive_is_given_up(client: TestClient) -> None:
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": GOOD[:50], "more_body": True}
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    [start, _] = client.portal.call(post(client.app, receive))
    assert start["status"] == 408


def test_a_device_out_of_memory_takes_smaller_batches(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.parts.inspector.engine
    model = engine.registry.slots["tiny"].active
    detector = model.detector
    plain = detector.detect_canvases
    held = Held(client.app)
    held.gate.clear()

    def little_memory(pixels: torch.Tensor, *rest: Any) -> Any:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(pixels, *rest)

    monkeypatch.setattr(detector, "detect_canvases", little_memory)
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/score", content=GOOD).status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    threads[0].start()
    held.wait_until_busy()
    for thread in threads[1:]:
        thread.start()
    while engine.batcher.queue.depth < 4:
        time.sleep(0.005)
    held.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 5
    assert held.sizes == [1, 4, 2, 2]
    text = client.get("/metrics").text
    assert 'maskline_oom_total{model="tiny"} 1.0' in text
    assert f"maskline_batch_limit {model.cost * 2:.1f}" in text


def test_a_model_that_raises_is_an_answer_with_a_code(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = client.app.state.parts.registry.slots["tiny"].active.detector

    def broken(pixels: torch.Tensor, placements: Any) -> Any:
        raise ValueError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(detector, "detect_canvases", broken)
        answer = client.post("/score", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
    assert "a bug" not in answer.text
    assert client.post("/score", content=GOOD).status_code == 200


def test_inference_that_breaks_off_is_an_answer_and_goes_on(client: TestClient) -> None:
    batcher = client.app.state.parts.inspector.engine.batcher
    plain = batcher._run

    def fatal(key: Hashable, works: Sequence[Any]) -> Sequence[Any]:
        raise SystemExit

    batcher._run = fatal
    answer = client.post("/score", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (503, "inference_crashed")
    batcher._run = plain
    assert client.post("/score", content=GOOD).status_code == 200


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 1"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("memory allocation"), False),
    ],
)
def test_out_of_memory_is_known_when_seen(error: Exception, wanted: bool) -> None:
    assert is_out_of_memory(error) is wanted


def test_a_service_that_drains_is_not_ready(client: TestClient) -> None:
    client.app.state.draining = True
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert client.post("/score", content=GOOD).status_code == 200


def test_a_refusal_at_the_door_says_when_to_come_back(tiny_folder: Path) -> None:
    app = create_app(settings(tiny_folder, parallel_batches=1, max_in_flight=1))
    with TestClient(app) as client:
        held = Held(app)
        held.gate.clear()
        background = threading.Thread(
            target=client.post, args=("/score",), kwargs={"content": GOOD}
        )
        background.start()
        held.wait_until_busy()
        app.state.parts.inspector.engine.batcher.queue._cost_seconds = 1.0
        answer = client.post("/score", content=GOOD)
        held.gate.set()
        background.join()
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) == app.state.parts.registry.active[0].cost
