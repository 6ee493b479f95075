"""Bounds the inspections in flight before their bodies are read. Pure ASGI: it costs microseconds."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import problem, retry_after
from service.metrics import Metrics


class Door:
    """Lets at most `limit` POST requests in at once; the rest get 429 with `Retry-After`.

    `seconds_for(n)` tells how long that many take by what was measured lately.
    """

    def __init__(
        self, app: ASGIApp, *, limit: int, seconds_for: Callable[[int], float], metrics: Metrics
    ) -> None:
        self._app = app
        self._limit = limit
        self._seconds_for = seconds_for
        self._metrics = metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._inside >= self._limit:
            self._metrics.rejected.labels("too_many_requests").inc()
            detail = f"{self._limit} requests are already in flight; try again shortly"
            # The body is not read, so the connection cannot be used again.
            headers = retry_after(self._seconds_for(self._inside)) | {"Connection": "close"}
            refusal = problem(429, "too_many_requests", detail, headers)
            await refusal(scope, receive, send)
            return
        self._inside += 1
        self._metrics.in_flight.set(self._inside)
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
            self._metrics.in_flight.set(self._inside)
