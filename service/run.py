"""Starts the server: the socket first, so that an occupied port is found before models load."""

import gc
import logging
import math
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.datastructures import State

from anomaly.device import share_arenas
from service.app import create_app
from service.errors import StartError
from service.http.api_keys import read_keys
from service.http.connection import BoundedConnection, room_for_connections
from service.http.listener import Listener
from service.logs import log_to_stderr
from service.routes.ui import PAGE
from service.settings import Settings

_log = logging.getLogger(__name__)
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # every address: this machine's
_CLOSING_S = 30.0  # for the record and the models, once requests are finished


def serve(*, announce: Callable[[str], None] | None = None, **overrides: Any) -> None:
    """Serve until stopped; what is not given comes from the environment.

    `announce` is told the page's address once the service listens, in a thread of its own: a
    terminal on hold stops nothing.
    Raises `StartError` (`settings_invalid`, `port_in_use`, `keys_missing`), `KeysError` and what
    loading models raises.
    """
    settings = read_settings(**overrides)
    share_arenas()
    with log_to_stderr(settings.log_format, settings.log_level):
        _serve(settings, announce)


def _serve(settings: Settings, announce: Callable[[str], None] | None) -> None:
    _check_keys(settings)
    _check_tls(settings)
    listener = free_port(settings.host, settings.port)
    app = create_app(settings)
    # Half a million objects of what was imported: a full collection would look at them all, and for
    # 0.3 s nobody would be answered. Models come later, so that theirs go when they do.
    gc.collect()
    gc.freeze()
    gc.collect()  # nothing is old now: what is left to collect is not held back by what was
    config = uvicorn.Config(
        app,
        http=partial(  # type: ignore[arg-type]
            BoundedConnection, head_s=settings.read_timeout_s, room=room_for_connections()
        ),
        ws="none",  # nothing here speaks it, and it would leave the connections that are counted
        log_config=None,
        access_log=False,
        timeout_keep_alive=settings.keep_alive_s,
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
        timeout_graceful_shutdown=math.ceil(settings.drain_limit_s),
    )
    bounds = ConnectionBounds(settings.read_timeout_s, room_for_connections())
    port = listener.getsockname()[1]
    server = DrainingServer(
        config,
        app.state,
        settings.drain_delay_s,
        bounds,
        on_listening=partial(_tell_page, page_address(settings, port), announce),
    )
    stop_at_hangup(server)
    _log.info(
        "loading models from %s, then listening on %s://%s:%s",
        settings.models_dir,
        "https" if settings.tls_cert_file else "http",
        settings.host,
        port,
    )
    try:
        with listener:
            server.run(sockets=[listener])
        _leave_lost_threads(app.state)
    except SystemExit:  # uvicorn's way of saying that the application did not start
        failure = app.state.failure
        if failure is None:
            raise
        raise failure from None


def _tell_page(address: str, announce: Callable[[str], None] | None) -> None:
    _log.info("listening; the page is at %s", address)
    if announce is not None:
        threading.Thread(target=announce, args=[address], daemon=True).start()


def _leave_lost_threads(state: State) -> None:
    """End the process at once if a thread still hangs in a decoder: clean-up would wait for it."""
    if all(pool.is_done for pool in state.pools):
        return
    _log.warning("stopped; a decoder still hangs and is left behind")
    logging.shutdown()
    os._exit(0)


def _check_keys(settings: Settings) -> None:
    """Raise `StartError` where nobody could ask anything; warn where everybody can."""
    if settings.auth == "off":
        _log.warning(
            "authentication is off: whoever reaches %s:%s may score images and switch models",
            settings.host,
            settings.port,
        )
    elif not read_keys(settings.keys_file):
        raise StartError(
            "keys_missing",
            f"there are no API keys in {settings.keys_file}; make one with 'maskline key add NAME "
            "--role score', or serve without keys with --no-auth or MASKLINE_AUTH=off",
        )


def _check_tls(settings: Settings) -> None:
    """Raise `StartError` where the certificate and its key do not make a pair."""
    if settings.tls_cert_file is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert_file, settings.tls_key_file
        )
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            "tls_invalid",
            f"{settings.tls_cert_file} and {settings.tls_key_file or 'itself'} are not a "
            "certificate "
            f"and its key in PEM ({error}); check MASKLINE_TLS_CERT_FILE and MASKLINE_TLS_KEY_FILE",
        ) from error


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """How long a TLS handshake may take, and how many connections there may be."""

    handshake_s: float
    room: int


class DrainingServer(uvicorn.Server):
    """Fails readiness, stops listening a moment later, finishes what is in flight, exits with 0.

    uvicorn by itself closes the listener at once, so that whoever balances load learns it from
    failed connections. A second signal ends the process there and then.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: State,
        delay_s: float,
        bounds: ConnectionBounds,
        *,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._bounds = bounds
        self._state = state
        self._delay_s = delay_s
        self._stop_asked_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen: by ourselves, as uvicorn bounds no TLS handshake."""
        await super().startup(sockets=[])

        def make() -> BoundedConnection:
            connection: BoundedConnection = self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )  # type: ignore[assignment, call-arg]
            return connection

        self.servers += [
            Listener(  # type: ignore[misc]
                listening,
                make,
                self.server_state.connections,
                tls=self.config.ssl,
                handshake_s=self._bounds.handshake_s,
                room=self._bounds.room,
            )
            for listening in sockets or ()
        ]
        if self.started:
            self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain, or give up draining."""
        if self._stop_asked_at is not None:
            os._exit(128 + sig)
        self._stop_asked_at = time.monotonic()
        self._state.draining = True
        self._end_at_last()

    def _end_at_last(self) -> None:
        """End the process if it outlasts its time: a disk or a database may hang for ever."""
        limit_s = self._delay_s + (self.config.timeout_graceful_shutdown or 0) + _CLOSING_S
        timer = threading.Timer(limit_s, os._exit, [1])
        timer.daemon = True
        timer.start()

    async def on_tick(self, counter: int) -> bool:
        """Leave the main loop once readiness has failed for a while."""
        if (
            self._stop_asked_at is not None
            and time.monotonic() - self._stop_asked_at >= self._delay_s
        ):
            self.should_exit = True
        return await super().on_tick(counter)


def stop_at_hangup(server: uvicorn.Server) -> None:
    """Let a closed terminal (SIGHUP) stop the service like SIGTERM, unless `nohup` forbids it."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        signal.signal(hangup, server.handle_exit)


def read_settings(**overrides: Any) -> Settings:
    """Read the settings, naming what is wrong with one that is."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = "MASKLINE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise StartError("settings_invalid", f"{name}: {first['msg']}") from error


def page_address(settings: Settings, port: int) -> str:
    """Return where a browser on this machine finds the page."""
    host = _HERE.get(settings.host, settings.host)
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{PAGE}"


def free_port(host: str, port: int) -> socket.socket:
    """Bind a listening socket; raises `StartError` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(
            "port_in_use",
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); stop the program "
            "that uses it, or choose another port with --port or MASKLINE_PORT",
        ) from error
    return listener
