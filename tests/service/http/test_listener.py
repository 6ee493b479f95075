"""Connections that have not even shaken hands, over real sockets and TLS."""

import contextlib
import http.client
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme
import uvicorn
from starlette.datastructures import State
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.http.connection import BoundedConnection
from service.run import ConnectionBounds, DrainingServer, stop_at_hangup

HANDSHAKE_S, ROOM = 0.5, 20


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("a" * 200_000)(scope, receive, send)


class TlsService:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        self.context = ssl.create_default_context(cafile=folder / "ca.pem")
        config = uvicorn.Config(
            _answer,
            http=partial(  # type: ignore[arg-type]
                BoundedConnection, head_s=HANDSHAKE_S, room=ROOM
            ),
            lifespan="off",
            timeout_keep_alive=1,
            log_config=None,
            ssl_certfile=folder / "server.pem",
        )
        self.server = DrainingServer(config, State(), 0.0, ConnectionBounds(HANDSHAKE_S, ROOM))
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def ask(self, client: http.client.HTTPSConnection | None = None) -> int:
        asking = client or self.client()
        asking.request("GET", "/")
        with asking.getresponse() as answer:
            answer.read()
            return answer.status

    def client(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=self.context)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsService]:
    running = TlsService(tmp_path_factory.mktemp("tls"))
    yield running
    running.server.should_exit = True
    running.thread.join()


def test_who_begins_no_handshake_is_closed(service: TlsService) -> None:
    with service.raw() as silent:
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        assert time.monotonic() - started < 6 * HANDSHAKE_S


def test_a_flood_without_handshakes_keeps_nobody_out(service: TlsService) -> None:
    kept = service.client()
    assert service.ask(kept) == 200
    with contextlib.ExitStack() as open_now:
        for _ in range(3 * ROOM):
            open_now.enter_context(service.raw())
        assert service.ask(kept) == 200
        new = service.client()
        assert service.ask(new) == 200
        assert len(service.server.server_state.connections) <= ROOM
        new.close()
    kept.close()


def test_what_is_no_handshake_harms_nobody(service: TlsService) -> None:
    with service.raw() as odd:
        odd.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while odd.recv(1000):
                pass
    last = service.client()
    assert service.ask(last) == 200
    last.close()


def test_who_reads_nothing_is_cut_off_with_tls_too(service: TlsService) -> None:
    with contextlib.ExitStack() as open_now:
        raw = open_now.enter_context(socket.socket())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", service.port))
        one = open_now.enter_context(service.context.wrap_socket(raw, server_hostname="127.0.0.1"))
        one.sendall(b"GET / HTTP/1.1\r\nHost: line\r\n\r\n" * 10)
        until = time.monotonic() + 10
        while service.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not service.server.server_state.connections


def test_a_hangup_stops_it_unless_nohup_said_otherwise(service: TlsService) -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for was, now in (
            (signal.SIG_DFL, service.server.handle_exit),
            (signal.SIG_IGN, signal.SIG_IGN),
        ):
            signal.signal(signal.SIGHUP, was)
            stop_at_hangup(service.server)
            assert signal.getsignal(signal.SIGHUP) == now
    finally:
        signal.signal(signal.SIGHUP, before)
