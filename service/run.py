"""Starts the server: the socket first, so that an occupied port is found before models load."""

import logging
import os
import socket
from typing import Any

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The service cannot start as it is set up."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def serve(**given: Any) -> None:
    """Serve until stopped; what is not given comes from the environment.

    Raises `StartError` (`settings_invalid`, `port_in_use`) and what loading models raises.
    """
    settings = read_settings(**given)
    listener = free_port(settings.host, settings.port)
    app = create_app(settings)
    config = uvicorn.Config(app, log_level=settings.log_level, access_log=False)
    server = uvicorn.Server(config)
    port = listener.getsockname()[1]
    _log.info(
        "loading models from %s, then listening on http://%s:%s",
        settings.models_dir,
        settings.host,
        port,
    )
    try:
        server.run(sockets=[listener])
    except SystemExit:  # uvicorn's way of saying that the application did not start
        failure = getattr(app.state, "failure", None)
        if failure is None:
            raise
        raise failure from None


def read_settings(**given: Any) -> Settings:
    """Read the settings, naming what is wrong with one that is."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "MASKLINE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise StartError("settings_invalid", f"{name}: {first['msg']}") from error


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
