"""Bounds the inspections in flight before their bodies are read. Pure ASGI: it costs microseconds."""

import json

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import PROBLEM
from service.metrics import Metrics


class Door:
    """Lets at most `limit` POST requests in at once; the rest get 429 with `Retry-After`."""

    def __init__(self, app: ASGIApp, *, limit: int, metrics: Metrics) -> None:
        self._app = app
        self._limit = limit
        self._metrics = metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._inside >= self._limit:
            self._metrics.rejected.labels("too_many_requests").inc()
            await _refuse(send, self._limit)
            return
        self._inside += 1
        self._metrics.in_flight.set(self._inside)
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
            self._metrics.in_flight.set(self._inside)


async def _refuse(send: Send, limit: int) -> None:
    detail = f"{limit} requests are already in flight; try again shortly"
    code = "too_many_requests"
    content = {"type": f"urn:maskline:error:{code}", "status": 429, "code": code, "detail": detail}
    headers = [
        (b"content-type", PROBLEM.encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
