"""The demo's line: every part once, in the order of no folder, as soon as the service is ready."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from cli import demo_line


class Listener(ThreadingHTTPServer):
    """A service that is ready at the second question, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = 0
        self.parts: list[tuple[str, str, bytes]] = []
        self.is_done = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def do_GET(self) -> None:
        self.server.asked += 1
        self._answer(503 if self.server.asked == 1 else 200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = parse_qs(urlparse(self.path).query)
        self.server.parts.append((query["camera"][0], query["part_id"][0], body))
        if len(self.server.parts) == 10:
            self.server.is_done.set()
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_line_sends_each_part_once(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_line, "_EACH_S", 0.0)
    for kind, count in {"good": 8, "dent": 8}.items():
        (tmp_path / "test" / kind).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "test" / kind / f"{number}.png").write_bytes(f"{kind}{number}".encode())
    demo_line.send_in_background(tmp_path, listener.server_address[1])
    assert listener.is_done.wait(10)
    assert listener.asked == 2
    cameras, names, bodies = zip(*listener.parts, strict=True)
    assert set(cameras) == {"left", "right"}
    assert names == tuple(f"A-{number:04d}" for number in range(1, 11))
    assert len(set(bodies)) == 10
    assert sum(body.startswith(b"dent") for body in bodies) == 2
    assert list(bodies) != sorted(bodies)
    assert not any(kind in name for name in names for kind in ("good", "dent"))
