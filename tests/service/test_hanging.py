"""A decoder that hangs costs its own request, not the line, and lets the process end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.datastructures import State

from bench.local import free_port
from service import heatmaps, run
from service.app import create_app
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

GOOD, HANGS = png(normal_pixels(6000)), png(normal_pixels(7))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Decoding one certain image waits for it."""
    plain, opened = heatmaps.decode_image, threading.Event()

    def decode(data: bytes, *rest: Any, **named: Any) -> Any:
        if data == HANGS:
            opened.wait(30)
        return plain(data, *rest, **named)

    monkeypatch.setattr(heatmaps, "decode_image", decode)
    yield opened
    opened.set()


@pytest.fixture
def client(tiny_folder: Path) -> Iterator[TestClient]:
    app = create_app(settings(tiny_folder, decode_threads=2, decode_timeout_s=0.3))
    with TestClient(app, raise_server_exceptions=False) as open_client:
        yield open_client


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_line_goes_on_beside_decoders_that_hang(
    client: TestClient, gate: threading.Event
) -> None:
    budget = client.app.state.parts.inspector.budget
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        answer = client.post("/score", content=HANGS)
        answers.append((answer.status_code, answer.json()["code"]))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(client.app.state.parts.inspector.pool._running) == 2)
    assert client.post("/score?deadline_ms=8000", content=GOOD).status_code == 200
    for thread in threads:
        thread.join()
    assert answers == [(400, "image_too_slow")] * 2
    assert client.get("/health/ready").status_code == 200
    assert budget.taken_bytes == 2 * normal_pixels(7).nbytes  # they hold it still
    gate.set()
    assert until(lambda: budget.taken_bytes == 0)


def test_readiness_fails_where_no_decoder_is_left_and_comes_back(
    client: TestClient, gate: threading.Event
) -> None:
    threads = [
        threading.Thread(target=client.post, args=("/score",), kwargs={"content": HANGS})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert until(lambda: client.get("/health/ready").status_code == 503)
    assert client.get("/health/live").status_code == 200
    answer = client.post("/score?deadline_ms=100", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_missed")
    gate.set()
    for thread in threads:
        thread.join()
    assert until(lambda: client.get("/health/ready").status_code == 200)
    assert client.post("/score", content=GOOD).status_code == 200


def test_an_image_that_hangs_is_one_item_of_a_batch(
    client: TestClient, gate: threading.Event
) -> None:
    files = [
        ("file", (f"{n}.png", body, "image/png")) for n, body in enumerate((GOOD, HANGS, GOOD))
    ]
    items = client.post("/v1/score/batch", files=files).json()["items"]
    assert [item["status"] for item in items] == ["ok", "error", "ok"]
    assert items[1]["error"]["code"] == "image_too_slow"


def test_the_process_ends_some_time_whatever_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(run.os, "_exit", ended.append)
    monkeypatch.setattr(run, "_CLOSING_S", 0.05)
    config = uvicorn.Config("none:app", timeout_graceful_shutdown=0)
    server = run.DrainingServer(config, State(), 0.05, run.ConnectionBounds(1.0, 10))
    server.handle_exit(signal.SIGTERM, None)
    assert until(lambda: ended == [1])


_SERVER = """
import sys, time
from service import heatmaps
heatmaps.decode_image = lambda *rest, **named: time.sleep(60)
from maskline import main
main()
"""


@pytest.mark.slow
def test_the_process_ends_although_a_decoder_hangs(tiny_folder: Path, tmp_path: Path) -> None:
    port = str(free_port())
    command = [sys.executable, "-c", _SERVER, "serve", "--models", str(tiny_folder), "--no-auth"]
    environment = {
        "MASKLINE_RECORD": "off",
        "MASKLINE_DECODE_TIMEOUT_S": "0.3",
        "MASKLINE_DRAIN_DELAY_S": "0",
    }
    server = subprocess.Popen(
        [*command, "--port", port], env=os.environ | environment, stderr=subprocess.PIPE
    )
    try:
        assert server.stderr is not None
        assert any(b"startup complete" in line for line in server.stderr)
        answer = httpx2.post(f"http://127.0.0.1:{port}/score", content=GOOD, timeout=20)
        assert answer.json()["code"] == "image_too_slow"
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
        assert b"hangs" in server.stderr.read()
    finally:
        server.kill()
        server.communicate()


def test_a_score_that_is_no_number_is_an_error(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings(tiny_folder))
    with TestClient(app, raise_server_exceptions=False) as client:
        batcher = app.state.parts.inspector.engine.batcher
        plain = batcher._run
        spoilt: list[dict[str, Any]] = [
            {"pred_score": float("nan")},
            {"p_value": float("inf")},
            {"score_std": float("nan")},
            {"patch_scores": np.full((8, 8), np.nan, np.float32)},
        ]
        for change in spoilt:

            def run(key: Any, works: Any, change: dict[str, Any] = change) -> Any:
                return [replace(one, **change) for one in plain(key, works)]

            monkeypatch.setattr(batcher, "_run", run)
            for path in ("/score", "/v1/score", "/2020-11-20/projects/tiny/models/1/detect"):
                answer = client.post(path, content=GOOD)
                assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
