import contextlib
import gc
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from anomaly.bundle import Bundle, save_bundle
from anomaly.errors import ModelNotFound
from bench.local import free_port as unused_port
from service.errors import StartError
from service.run import free_port, page_address, read_settings, serve
from tests.conftest import normal_pixels, png


def test_an_occupied_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartError, match="--port") as caught:
            free_port("127.0.0.1", taken.getsockname()[1])
    assert caught.value.code == "port_in_use"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_MAX_BATCH_ITEMS", "7")
    monkeypatch.setenv("MASKLINE_PORT", "9000")
    settings = read_settings(port=9001)
    assert (settings.max_batch_items, settings.port) == (7, 9001)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_MAX_QUEUE_SIZE", "0")
    with pytest.raises(StartError, match="MASKLINE_MAX_QUEUE_SIZE"):
        read_settings()


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, "http://127.0.0.1:8123/ui/"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8123/ui/"),
        ({"host": "::"}, "http://[::1]:8123/ui/"),
        ({"host": "inspect.plant", "tls_cert_file": "x.pem"}, "https://inspect.plant:8123/ui/"),
    ],
)
def test_the_page_has_an_address_that_a_browser_here_finds(
    changes: dict[str, str], address: str
) -> None:
    assert page_address(read_settings(**changes), 8123) == address


class RealServer:
    """`maskline serve` as a process of its own."""

    def __init__(
        self,
        models: Path,
        authority: Path | None = None,
        *,
        url: str | None = None,
        up_at: str = "/health/ready",
        **variables: str,
    ) -> None:
        self.verify = ssl.create_default_context(cafile=authority)
        self.url = url or f"{'https' if authority else 'http'}://127.0.0.1:{unused_port()}"
        command = [sys.executable, "-m", "maskline", "serve", "--models", str(models)]
        access = [] if "MASKLINE_AUTH" in variables else ["--no-auth"]
        port = self.url.rpartition(":")[2]
        self.process = subprocess.Popen(
            [*command, *access, "--port", port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"MASKLINE_RECORD": "off"} | variables,
        )
        self._wait_until_up(up_at)

    def _wait_until_up(self, path: str) -> None:
        for _ in range(300):
            try:
                answer = httpx2.get(f"{self.url}{path}", verify=self.verify)
                if answer.status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.2)
        self.end()
        raise AssertionError(f"{path} never answered with 200")

    def end(self) -> None:
        with self.process:  # closes its pipe, too, and waits
            self.process.kill()

    def stop(self) -> tuple[int, str]:
        """Return the exit code and the log."""
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log.decode()


Start = Callable[..., RealServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Make servers, and leave none behind a test that failed."""
    with contextlib.ExitStack() as ends:

        def make(models: Path, authority: Path | None = None, **variables: str) -> RealServer:
            server = RealServer(models, authority, **variables)
            ends.callback(server.end)
            return server

        yield make


@pytest.mark.slow
def test_a_server_says_where_its_page_is_once_it_is_there(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder)
    assert server.process.stdout is not None
    assert server.process.stdout.readline().decode() == f"open {server.url}/ui/\n"
    page = httpx2.get(server.url, follow_redirects=True)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    server.process.send_signal(signal.SIGTERM)
    exit_code, log = server.stop()
    assert exit_code == 0
    assert f"the page is at {server.url}/ui/" in log


@pytest.mark.slow
def test_a_stopping_server_fails_readiness_first_and_loses_no_request(
    start: Start, tiny_folder: Path
) -> None:
    server = start(tiny_folder)
    image, codes, stopped = png(normal_pixels(1)), [], threading.Event()

    def ask() -> None:
        with httpx2.Client(timeout=30) as client:
            while not stopped.is_set():
                codes.append(client.post(f"{server.url}/score", content=image).status_code)

    askers = [threading.Thread(target=ask) for _ in range(32)]
    for asker in askers:
        asker.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    for _ in range(100):  # as a load balancer would: nothing more once it is not ready
        if httpx2.get(f"{server.url}/health/ready", timeout=10).status_code == 503:
            break
    stopped.set()
    for asker in askers:
        asker.join()
    exit_code, log = server.stop()
    assert exit_code == 0, log
    assert "Application shutdown complete" in log
    assert set(codes) == {200}
    assert len(codes) > 32


@pytest.mark.slow
def test_open_streams_hold_up_no_exit(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder)
    port = int(server.url.rpartition(":")[2])
    streams = []
    for _ in range(5):
        stream = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        stream.request("GET", "/v1/events")
        streams.append((stream, stream.getresponse()))
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for _, answer in streams:
        assert b'{"status":"draining"}' in answer.read()
    exit_code, log = server.stop()
    stopped_s = time.monotonic() - started
    for stream, answer in streams:
        answer.close()
        stream.close()
    assert exit_code == 0, log
    assert stopped_s < 2  # of which one lets load balancers notice


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_up_no_request(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder)  # its log goes into a pipe of 64 KB that is read at the end
    image = png(normal_pixels(1))
    with httpx2.Client(timeout=10, headers={"X-Request-ID": "a" * 64}) as client:
        codes = {client.post(f"{server.url}/score", content=image).status_code for _ in range(300)}
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=30)
    exit_code, log = server.stop()
    assert (codes, exit_code) == ({200}, 0), log


@pytest.mark.slow
def test_connections_that_bring_no_request_are_closed(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder, MASKLINE_READ_TIMEOUT_S="1")
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    image, half = png(normal_pixels(1)), b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with httpx2.Client(timeout=10) as client, contextlib.ExitStack() as open_now:

        def connect() -> socket.socket:
            return open_now.enter_context(socket.create_connection(address, timeout=5))

        kept = client.post(f"{server.url}/score", content=image)
        silent, halfway, trickling = connect(), connect(), connect()
        halfway.sendall(half)
        trickling.sendall(half)
        for _ in range(8):
            time.sleep(0.2)
            with contextlib.suppress(OSError):  # closed on the way
                trickling.sendall(b"X-A: 1\r\n")
        for one in (silent, halfway, trickling):
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1000) == b""
        endless = connect()
        with contextlib.suppress(OSError):
            endless.sendall(half + b"X-Long: " + b"a" * 200_000)
        assert endless.recv(1000).startswith(b"HTTP/1.1 400 ")
        unread = connect()
        unread.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n"
        )
        answers = unread.recv(4000)
        unread.sendall(b"a" * 200_000)  # is no head, however long
        unread.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while b'"live"' not in answers and (more := unread.recv(4000)):
            answers += more
        assert [one[:3] for one in answers.split(b"HTTP/1.1 ")] == [b"", b"404", b"200"]
        again = client.post(f"{server.url}/score", content=image)
    server.process.send_signal(signal.SIGTERM)
    exit_code, log = server.stop()
    assert (kept.status_code, again.status_code, exit_code) == (200, 200, 0), log


@pytest.mark.slow
def test_a_connection_outlives_the_takt(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder)
    line = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    line.connect()
    connection = line.sock
    for pause in (0, 6):  # uvicorn by itself closes after five seconds
        time.sleep(pause)
        line.request("GET", "/health/live")
        with line.getresponse() as answer:
            assert (answer.status, answer.read()) == (200, b'{"status":"live"}')
        assert line.sock is connection  # neither side closed it
    line.close()
    server.process.send_signal(signal.SIGTERM)
    exit_code, log = server.stop()
    assert exit_code == 0, log


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(start: Start, tiny_folder: Path) -> None:
    server = start(tiny_folder)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    exit_code, _ = server.stop()
    assert exit_code == 128 + signal.SIGTERM
    assert time.monotonic() - started < 2


@pytest.mark.slow
def test_a_killed_server_starts_again_with_what_served(
    start: Start, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    models, image = tmp_path / "models", png(normal_pixels(1))
    save_bundle(tiny_bundle, models / "part", "v1")
    server = start(models)
    busy = threading.Event()

    def publish() -> None:  # versions are written, read and switched to while it is killed
        for number in range(2, 1000):
            if busy.is_set():
                return
            save_bundle(tiny_bundle, models / "part", f"v{number}")
            for action in ("load", "activate"):
                try:
                    httpx2.post(f"{server.url}/v1/models/part:{action}", timeout=10)
                except httpx2.TransportError:
                    return

    publisher = threading.Thread(target=publish)
    publisher.start()
    before = httpx2.post(f"{server.url}/score", content=image, timeout=10).json()
    time.sleep(2)
    server.process.kill()
    server.process.communicate()
    busy.set()
    publisher.join()
    again = start(models)
    after = httpx2.post(f"{again.url}/score", content=image, timeout=10).json()
    again.process.send_signal(signal.SIGTERM)
    assert again.stop()[0] == 0
    assert after["score"] == before["score"]
    assert int(after["model"]["version"][1:]) > 1


@pytest.mark.slow
def test_tls_without_a_proxy(start: Start, tiny_folder: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    server = start(
        tiny_folder, tmp_path / "ca.pem", MASKLINE_TLS_CERT_FILE=str(tmp_path / "server.pem")
    )
    image = png(normal_pixels(1))
    answer = httpx2.post(f"{server.url}/score", content=image, verify=server.verify)
    server.process.send_signal(signal.SIGTERM)
    assert answer.status_code == 200
    assert server.stop()[0] == 0


def test_what_was_imported_is_never_collected_again(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        serve(models_dir=_no_folder(tmp_path), auth="off", record="off", port=0)
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    assert frozen > 100_000


def test_a_certificate_without_its_key_is_a_clear_error(tiny_folder: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with pytest.raises(StartError, match="MASKLINE_TLS_KEY_FILE") as caught:
        serve(models_dir=tiny_folder, auth="off", tls_cert_file=tmp_path / "ca.pem")
    assert caught.value.code == "tls_invalid"


def test_a_server_that_can_have_no_models_says_so_in_one_line(tmp_path: Path) -> None:
    models = str(_no_folder(tmp_path))
    command = [sys.executable, "-m", "maskline", "serve", "--models", models, "--no-auth"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error [model_not_found]: no model in")


def _no_folder(tmp_path: Path) -> Path:
    (tmp_path / "models").write_text("a file")
    return tmp_path / "models"
