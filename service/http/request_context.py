"""What stands around every request: its id, the headers of its answer, its line in the log.

Pure ASGI: it costs microseconds, where Starlette's BaseHTTPMiddleware cost a third of the
throughput.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import REQUEST_ID

_log = logging.getLogger("service.access")
_ID = re.compile(rb"[\w.:-]{1,64}")
_QUIET = ("/health/", "/metrics")  # asked every few seconds: not worth a line
_REFUSED = (401, 403)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Frame:
    """Echoes or makes `X-Request-ID`, adds security headers, logs the request.

    A header that a route set by itself stays.

    `observe(route, status, seconds)` is told of each answer; a route is the pattern that the path
    fits. While `is_draining()`, answers close their connection, so that no client sends its next
    request into a connection that is about to end.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        is_draining: Callable[[], bool],
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._app = app
        self._is_draining = is_draining
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started, status = time.perf_counter(), 0

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                message["headers"] = headers + [
                    header for header in self._headers(request_id) if header[0] not in present
                ]
            await send(message)

        token = REQUEST_ID.set(request_id)
        try:
            await self._app(scope, receive, send_framed)
        except Exception:
            status = status or 500  # which is answered outside of this
            raise
        finally:
            seconds = time.perf_counter() - started
            _write(scope, status, seconds)
            if status:  # 0: the client left, and nothing was answered
                self._observe(getattr(scope.get("route"), "path", "other"), status, seconds)
            REQUEST_ID.reset(token)

    def _headers(self, request_id: str) -> list[tuple[bytes, bytes]]:
        headers = [*_HEADERS, (b"x-request-id", request_id.encode())]
        return [*headers, (b"connection", b"close")] if self._is_draining() else headers


def _request_id(scope: Scope) -> str:
    """Take the caller's id if it is one, otherwise make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            request_id: bytes = value
            return request_id.decode()
    return uuid.uuid4().hex


def _write(scope: Scope, status: int, seconds: float) -> None:
    path = scope["path"]
    level = logging.DEBUG if path.startswith(_QUIET) and status < 500 else logging.INFO
    if _log.isEnabledFor(level):
        fields = {"method": scope["method"], "path": path[:200], "status": status}
        if key := scope.get("state", {}).get("key"):
            fields["key"] = key
        if status in _REFUSED and scope.get("client"):
            fields["client"] = scope["client"][0]  # whose it is that tries keys
        _log.log(level, "request", extra={**fields, "seconds": round(seconds, 5)})
