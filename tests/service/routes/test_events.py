"""Streams of a real server, over real sockets: resumed, drained, revoked, refused, left."""

import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from anomaly.bundle import Bundle, save_bundle
from service.app import create_app
from service.http import event_stream
from service.http.api_keys import Role, add_key, revoke_key
from service.http.connection import BoundedConnection
from service.run import ConnectionBounds, DrainingServer
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

GOOD, BAD = png(normal_pixels(6000)), png(planted(normal_pixels(6001), 80, 40, 12))


class Watcher:
    """Reads a stream in a thread, as a browser would."""

    def __init__(self, port: int, query: str = "", **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("GET", f"/v1/events{query}", headers=named)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.events: list[tuple[str, Any]] = []
        self.last_id = ""
        self.comments = 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while line := self.answer.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n":
                    self.last_id = fields.get("id", self.last_id)
                    if "data" in fields:
                        self.events.append((fields["event"], json.loads(fields["data"])))
                    fields = {}
                elif not name:
                    self.comments += 1
                else:
                    fields[name] = value

    def of(self, name: str) -> list[Any]:
        return [data for event, data in self.events if event == name]

    def leave(self) -> None:
        if self.connection.sock is not None:
            with contextlib.suppress(OSError):
                self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.answer.close()
        self.connection.close()

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Live:
    """The service as `maskline serve` runs it, in a thread."""

    def __init__(self, models: Path, **changes: object) -> None:
        used = settings(models, **changes)
        self.app: FastAPI = create_app(used)

        def connection(**options: Any) -> BoundedConnection:
            return BoundedConnection(head_s=used.read_timeout_s, room=100, **options)

        config = uvicorn.Config(
            self.app,
            http=connection,  # type: ignore[arg-type]
            ws="none",
            log_config=None,
            timeout_keep_alive=used.keep_alive_s,
            timeout_graceful_shutdown=10,
        )
        bounds = ConnectionBounds(used.read_timeout_s, 100)
        self.server = DrainingServer(config, self.app.state, used.drain_delay_s, bounds)
        self.server._end_at_last = lambda: None  # type: ignore[method-assign]
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        until(lambda: self.server.started)

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.app.state.draining:  # a second signal would end the tests
            self.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def watch(self, query: str = "", **headers: str) -> Watcher:
        return Watcher(self.port, query, **headers)

    def score(self, query: str = "", image: bytes = GOOD) -> Any:
        answer = httpx2.post(f"{self.url}/score{query}", content=image, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def streams(self) -> float:
        return float(self.metric("maskline_event_streams"))

    def metric(self, name: str) -> str:
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        return next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " "))


def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.fixture
def live(tiny_folder: Path, tmp_path: Path) -> Iterator[Live]:
    with Live(
        tiny_folder, record="on", record_dir=tmp_path / "results", drain_delay_s=0
    ) as service:
        yield service


def test_an_interrupted_stream_that_is_resumed_loses_nothing(live: Live) -> None:
    answers: list[str] = []

    def score() -> None:
        with httpx2.Client(timeout=30) as client:
            for _ in range(30):
                answer = client.post(f"{live.url}/score?heatmap=none", content=GOOD)
                answers.append(answer.json()["result_id"])

    watcher, seen, breaks = live.watch(), [], 0
    lines = [threading.Thread(target=score) for _ in range(2)]
    for line in lines:
        line.start()
    while any(line.is_alive() for line in lines):
        time.sleep(0.15)
        watcher.leave()
        breaks += 1
        seen += watcher.of("inspection")
        way = {"Last_Event_ID": watcher.last_id} if breaks % 2 else {}
        query = "" if way else f"?last_event_id={watcher.last_id}"
        watcher = live.watch(query, **way)
    until(lambda: len(seen) + len(watcher.of("inspection")) >= 60)
    seen += watcher.of("inspection")
    watcher.leave()
    assert breaks >= 2
    ids = [data["result_id"] for data in seen]
    assert sorted(ids) == sorted(answers)
    assert len(set(ids)) == 60
    assert watcher.of("gap") == []


def test_an_inspection_is_told_as_it_is_recorded(live: Live) -> None:
    with live.watch() as watcher:
        query = "?camera=left&part_id=A-1&lot=L&program=p"
        result_id = live.score(query, BAD)["result_id"]
        until(lambda: bool(watcher.of("inspection")))
        [told] = watcher.of("inspection")
        headers = watcher.answer.headers
    assert headers["Content-Type"].startswith("text/event-stream")
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["Cache-Control"] == "no-store"
    until(lambda: httpx2.get(f"{live.url}/v1/results/{result_id}").status_code == 200)
    stored = httpx2.get(f"{live.url}/v1/results/{result_id}").json()
    same = ("result_id", "inspected_at", "model", "version", "camera", "part_id", "lot", "program")
    same += ("verdict", "score", "threshold", "p_value", "kept")
    assert told == {name: stored[name] for name in same} | {"regions": len(stored["regions"])}
    assert (told["verdict"], told["kept"], told["camera"]) == ("NG", True, "left")


def test_feedback_and_state_are_told(live: Live) -> None:
    result_id = live.score("", BAD)["result_id"]
    until(lambda: httpx2.get(f"{live.url}/v1/results/{result_id}").status_code == 200)
    with live.watch("?names=feedback") as watcher:
        said = {"kind": "confirmed_defect", "defect": "scratch", "comment": "<b>"}
        answer = httpx2.post(f"{live.url}/v1/results/{result_id}/feedback", json=said)
        assert answer.status_code == 201
        live.app.state.parts.inspector.engine.batcher.close()
        until(lambda: len(watcher.events) == 3)
    assert watcher.events == [
        ("state", {"status": "ready"}),
        (
            "feedback",
            {
                "result_id": result_id,
                "kind": "confirmed_defect",
                "defect": "scratch",
                "author": None,
            },
        ),
        ("state", {"status": "not_ready"}),
    ]


def test_versions_and_results_are_told_where_nothing_is_recorded(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "models/part", "v1")
    with Live(tmp_path / "models", drain_delay_s=0) as live, live.watch() as watcher:
        calibration = replace(tiny_bundle.calibration, false_alarm_rate=0.2)  # type: ignore[type-var]
        save_bundle(replace(tiny_bundle, calibration=calibration), tmp_path / "models/part", "v2")
        for action in ("load", "activate", "rollback"):
            assert httpx2.post(f"{live.url}/v1/models/part:{action}").status_code == 200
        live.score("", BAD)
        until(lambda: bool(watcher.of("inspection")))
    [told] = watcher.of("inspection")
    assert (told["kept"], told["verdict"], told["camera"]) == (False, "NG", None)
    steps = [(told["active"], told["staged"], told["previous"]) for told in watcher.of("model")]
    assert steps == [("v1", "v2", None), ("v2", None, "v1"), ("v1", None, "v2")]
    assert {told["name"] for told in watcher.of("model")} == {"part"}


def test_a_drain_tells_and_ends_32_streams_at_once(live: Live) -> None:
    watchers = [live.watch() for _ in range(32)]
    until(lambda: all(watcher.events for watcher in watchers))
    started = time.monotonic()
    live.stop()
    for watcher in watchers:
        watcher.thread.join(5)
    ended_s = time.monotonic() - started
    live.thread.join(10)
    stopped_s = time.monotonic() - started
    for watcher in watchers:
        assert watcher.events == [
            ("state", {"status": "ready"}),
            ("state", {"status": "draining"}),
        ]
        watcher.leave()
    assert ended_s < 1  # 0.15 s on a quiet machine
    assert stopped_s < 3


def test_no_stream_begins_while_the_service_drains(tiny_folder: Path) -> None:
    with Live(tiny_folder, drain_delay_s=1.5) as live:
        live.stop()
        until(lambda: live.app.state.parts.events.is_draining)
        refused = httpx2.get(f"{live.url}/v1/events")
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")


def test_a_revoked_key_ends_its_stream_and_no_other(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr(event_stream, "_CHECK_S", 0.2)
    keys = tmp_path / "keys.json"
    first, second = (add_key(keys, name, Role.OPERATE) for name in ("first", "second"))
    weak = add_key(keys, "weak", Role.SCORE)
    with Live(tiny_folder, auth="keys", keys_file=keys, drain_delay_s=0) as live:
        for secret, status in ((weak, 403), ("mk_wrong", 401)):
            refused = httpx2.get(f"{live.url}/v1/events", headers={"X-API-Key": secret})
            assert refused.status_code == status
        with live.watch(X_API_Key=first) as gone, live.watch(X_API_Key=second) as staying:
            until(lambda: gone.comments > 4)  # it goes on as long as the key is valid
            revoke_key(keys, "first")
            gone.thread.join(5)
            assert not gone.thread.is_alive()
            live.app.state.parts.events.publish("job", {"id": "j"})
            until(lambda: bool(staying.of("job")))
            assert gone.of("job") == []
        until(lambda: live.streams == 0)


def test_one_stream_too_many_is_refused_until_a_client_leaves(tiny_folder: Path) -> None:
    with Live(tiny_folder, drain_delay_s=0) as live, contextlib.ExitStack() as open_now:
        watchers = [open_now.enter_context(live.watch()) for _ in range(32)]
        assert live.streams == 32
        refused = httpx2.get(f"{live.url}/v1/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert int(refused.headers["Retry-After"]) >= 1
        watchers[7].leave()
        until(lambda: live.streams == 31, 1.0)
        open_now.enter_context(live.watch())
        assert httpx2.get(f"{live.url}/v1/events").status_code == 429


def test_neither_a_pause_nor_its_own_body_ends_a_stream(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 1.0)
    with Live(tiny_folder, read_timeout_s=0.3, keep_alive_s=1, drain_delay_s=0) as live:
        with live.watch() as watcher:
            until(lambda: watcher.comments == 2)
            live.score()
            until(lambda: bool(watcher.of("inspection")))
        with socket.create_connection(("127.0.0.1", live.port), timeout=5) as slow:
            head = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
            slow.sendall(head + b"ab")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert live.streams == 0


def test_who_reads_too_slowly_is_told_and_slows_nobody(live: Live) -> None:
    publish = live.app.state.parts.events.publish
    with socket.socket() as slow, live.watch("?names=job") as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(10)
        slow.connect(("127.0.0.1", live.port))
        slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: live.streams == 2)
        started = datetime.now(UTC)
        for number in range(1000):  # ten megabytes, of which the kernel takes some
            publish("job", {"id": number, "log": "x" * 10_000})
            if number % 50 == 0:
                until(lambda: len(quick.of("job")) >= number)  # noqa: B023
        until(lambda: len(quick.of("job")) == 1000)
        text = b""
        while not (gap := re.search(rb"event: gap\nid: [\w.]+\ndata: (.+)\n\n", text)):
            text = text[-200:] + slow.recv(1_000_000)
        assert datetime.fromisoformat(json.loads(gap[1])["since"]) > started
        assert live.metric("maskline_events_dropped_total") == "1.0"


@pytest.mark.parametrize(
    "query", ["?names=inspections", "?names=", "?names=job,,model", "?since=1"]
)
def test_what_is_no_event_is_named(live: Live, query: str) -> None:
    refused = httpx2.get(f"{live.url}/v1/events{query}")
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert live.streams == 0


def test_the_header_counts_before_the_address_and_nonsense_is_a_gap(live: Live) -> None:
    with live.watch() as watcher:
        live.score()
        until(lambda: bool(watcher.of("inspection")))
    with live.watch("?last_event_id=old.1", Last_Event_ID=watcher.last_id) as again:
        until(lambda: bool(again.events))
        assert again.events == [("state", {"status": "ready"})]
    with live.watch("?last_event_id=old.1") as lost:
        until(lambda: len(lost.events) == 2)
        assert lost.events[0] == ("gap", {"since": None})


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux's")
def test_a_client_that_was_switched_off_keeps_no_place_for_long(live: Live) -> None:
    with live.watch():
        [connection] = [one for one in live.server.server_state.connections if one.cycle]  # type: ignore[union-attr]
        end = connection.transport.get_extra_info("socket")
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
