"""The code that an integrator copies: the Python of the quickstart, and the PLC gateway."""

import argparse
import os
import re
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import jpeg, normal_pixels, planted
from tests.service.test_run import RealServer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import plc_gateway  # noqa: E402

GOOD, BAD = jpeg(normal_pixels(6003)), jpeg(planted(normal_pixels(6001), 80, 40, 12))


@pytest.fixture(scope="module")
def url(tiny_folder: Path) -> Iterator[str]:
    server = RealServer(tiny_folder)
    yield server.url
    server.process.send_signal(signal.SIGTERM)
    server.stop()


def test_the_python_of_the_quickstart(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/quickstart-line.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "key.txt").write_text("none is asked for here\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code.replace("http://localhost:8000", url), "quickstart", "exec"), names)
    is_good = names["is_good"]
    assert callable(is_good)
    assert is_good(GOOD, "A-1") is True
    assert is_good(BAD, "A-2") is False
    assert is_good(b"no image", "A-3") is False


def ask(port: int, lines: str) -> list[str]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(lines.encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read().splitlines()


@pytest.fixture
def gateway(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(plc_gateway, "IMAGE_WAIT_S", 0.3)
    plc_gateway.Gateway.options = argparse.Namespace(
        images=tmp_path, camera="left", url=url, key="k", deadline_ms=2000
    )
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), plc_gateway.Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_plc_gets_a_line_for_each_part(gateway: int, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(GOOD)
    (tmp_path / "bad.jpg").write_bytes(BAD)
    (tmp_path / "broken.jpg").write_bytes(GOOD[:100])
    lines = "good\r\nbad\r\nnever\r\nbroken\r\n\r\n../good\r\n"
    assert ask(gateway, lines) == ["OK", "NG", "NG", "NG", "NG", "NG"]


def test_an_image_that_is_being_written_is_waited_for(gateway: int, tmp_path: Path) -> None:
    image = tmp_path / "slow.jpg"
    image.write_bytes(GOOD[:500])

    def finish() -> None:
        with image.open("ab") as file:
            for start in range(500, len(GOOD), 400):
                file.write(GOOD[start : start + 400])
                file.flush()
                os.fsync(file.fileno())

    writer = threading.Thread(target=finish)
    writer.start()
    assert ask(gateway, "slow\n")[0] in ("OK", "NG")  # never an exception; a half image is NG
    writer.join()
    assert ask(gateway, "slow\n") == ["OK"]


def test_a_service_that_is_away_is_ng(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(GOOD)
    options = argparse.Namespace(
        images=tmp_path, camera="c", url="http://127.0.0.1:9", key="", deadline_ms=100
    )
    verdict, why = plc_gateway.ask("p", options)
    assert verdict == "NG"
    assert why
