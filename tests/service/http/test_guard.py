"""Every route against strangers and endless bodies: bytes over a socket, one real server."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from service import app as app_module
from service.app import create_app
from service.http.api_keys import Role, add_key, rights_of
from service.http.connection import BoundedConnection
from service.http.guard import rules_of
from service.routes import health
from tests.service.conftest import settings

_READ_S = 0.4
Route = tuple[str, str, Role | None]
OPEN = {"/openapi.json": "GET", "/docs": "GET"}
NONE = {"/nowhere": "POST", "/v1/nowhere": "DELETE"}


def routes() -> list[Route]:
    """Method, path and role of every route that the app has."""
    every = [route for module in app_module._ROUTES for route in module.router.routes]
    rules = rules_of(every, bulk_bytes=1, open_paths=health.OPEN)
    table: list[Route] = [
        (method, re.sub(r"{[\w:]+}", "tiny", route.path), rule.role)
        for route, rule in zip(every, rules[1:], strict=True)  # the first is the documents'
        for method in {*rule.methods} - {"HEAD"}  # the same rule as GET
    ]
    table += [(method, path, None) for path, method in OPEN.items()]
    return table + [(method, path, Role.READ) for path, method in NONE.items()]


TABLE = sorted(routes(), key=str)
GUARDED = [route for route in TABLE if route[2] is not None]


class Line:
    """A server, and keys of each role."""

    def __init__(self, app: FastAPI, keys: dict[Role, str], port: int) -> None:
        self.app, self.keys, self.port = app, keys, port

    def ask(self, head: str, body: bytes = b"", *, chunks: int = 0) -> tuple[int, str, int]:
        """Return the status, the code, and how many bytes of body went out before the answer came.

        `chunks` megabytes of a chunked body are sent, as long as nothing is answered.
        """
        with socket.create_connection(("127.0.0.1", self.port), 10) as wire:
            wire.sendall(head.encode() + b"\r\n" + body)
            sent = len(body)
            for _ in range(chunks):
                wire.settimeout(0.05)
                try:
                    if wire.recv(1, socket.MSG_PEEK):
                        break
                except TimeoutError:
                    pass
                wire.settimeout(10)
                try:
                    wire.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                except OSError:
                    break
                sent += 0x10000
            wire.settimeout(10)
            return (*_answer(wire), sent)

    def head(self, method: str, path: str, *more: str, role: Role | None = None) -> str:
        lines = [f"{method} {path} HTTP/1.1", "Host: line", *more]
        if role is not None:
            lines.append(f"X-API-Key: {self.keys[role]}")
        return "\r\n".join(lines) + "\r\n"

    def inside(self) -> float:
        metrics = self.app.state.parts.inspector.metrics
        value: float = metrics.in_flight._value.get()
        return value


def _answer(wire: socket.socket) -> tuple[int, str]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += wire.recv(65536) or pytest.fail("closed without an answer")
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    while length is not None and len(body) < int(length[1]):
        body += wire.recv(65536) or pytest.fail("half an answer")
    is_problem = b"application/problem+json" in head
    return int(head[9:12]), json.loads(body)["code"] if is_problem else ""


@pytest.fixture(scope="module")
def line(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    keys_file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {role: add_key(keys_file, role.name, role) for role in Role}
    app = create_app(
        settings(
            tiny_folder,
            auth="keys",
            keys_file=keys_file,
            read_timeout_s=_READ_S,
            max_body_bytes=100_000,
            max_bulk_bytes=300_000,
            metrics_open=False,
        )
    )
    http = partial(BoundedConnection, head_s=5.0, room=100)
    config = uvicorn.Config(app, http=http, log_config=None)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Line(app, keys, listener.getsockname()[1])
    server.should_exit = True
    thread.join()
    listener.close()


def less(role: Role) -> Role | None:
    """The largest role that does not contain this one."""
    return next((held for held in reversed(Role) if role not in rights_of(frozenset({held}))), None)


@pytest.mark.parametrize(("method", "path", "role"), GUARDED, ids=str)
def test_a_stranger_is_refused_before_a_byte_is_read(
    line: Line, method: str, path: str, role: Role
) -> None:
    endless = "Transfer-Encoding: chunked"
    json_body = "Content-Type: application/json"
    status, code, sent = line.ask(line.head(method, path, endless, json_body), chunks=40)
    assert (status, code) == (401, "key_missing")
    assert sent <= 2 * 0x10000
    wrong = line.head(method, path, "Authorization: Bearer mk_wrong", "Content-Length: 5000000")
    assert line.ask(wrong)[:2] == (401, "key_unknown")
    if (smaller := less(role)) is not None:
        asked = line.head(method, path, endless, json_body, role=smaller)
        status, code, sent = line.ask(asked, chunks=40)
        assert (status, code) == (403, "role_insufficient")
        assert sent <= 2 * 0x10000
    assert line.inside() == 0


@pytest.mark.parametrize(("method", "path", "role"), TABLE, ids=str)
def test_no_body_is_read_without_end(line: Line, method: str, path: str, role: Role | None) -> None:
    large = line.head(method, path, "Content-Length: 9999999999", role=role)
    assert line.ask(large)[:2] == (413, "body_too_large")
    endless = "Transfer-Encoding: chunked"
    for kind in ("application/json", "image/jpeg", "text/plain", "multipart/form-data; boundary=X"):
        head = line.head(method, path, endless, f"Content-Type: {kind}", role=role)
        status, code, sent = line.ask(head, chunks=40)
        assert status < 500 or code in {"not_ready"}
        assert sent < 2_000_000
    deadline = time.monotonic() + 5
    while line.inside() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert line.inside() == 0


@pytest.mark.parametrize(("method", "path", "role"), TABLE, ids=str)
def test_no_body_is_waited_for_without_end(
    line: Line, method: str, path: str, role: Role | None
) -> None:
    started = time.monotonic()
    for kind in ("application/json", "image/jpeg"):
        head = line.head(method, path, "Content-Length: 100", f"Content-Type: {kind}", role=role)
        status, _, _ = line.ask(head, b"{")
        assert status < 500
    assert time.monotonic() - started < 2 * (_READ_S + 1.5)


def test_a_body_is_not_invited_before_the_key_is_known(line: Line) -> None:
    expecting = ("Expect: 100-continue", "Content-Length: 10")
    assert line.ask(line.head("POST", "/score", *expecting))[0] == 401
    assert line.ask(line.head("POST", "/score", *expecting, role=Role.SCORE))[0] == 100


def test_a_route_that_declares_no_role_stops_the_start() -> None:
    router = APIRouter()
    router.get("/new")(lambda: None)
    with pytest.raises(LookupError, match="/new declares no role"):
        rules_of(router.routes, bulk_bytes=1, open_paths=())


@pytest.fixture(scope="module")
def unlocked(tiny_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tiny_folder, allowed_hosts="inspect.plant"))) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("[::1]:8000", None, 200),
        ("10.0.0.7", None, 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("INSPECT.plant.", None, 200),
        (socket.gethostname(), None, 200),
        ("evil.example", None, 403),  # a name that was rebound to this address
        ("127.0.0.1.evil.example:8000", None, 403),
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "null", 403),
    ],
)
def test_without_keys_only_who_means_this_machine_is_answered(
    unlocked: TestClient, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/nowhere")):
        answer = unlocked.request(method, path, headers=headers)
        assert answer.status_code == (403 if status == 403 else answer.status_code)
        assert (answer.status_code == 403) is (status == 403)
        if status == 403:
            assert answer.json()["code"] == "host_foreign"
