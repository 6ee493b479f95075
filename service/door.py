"""Refuses before anything is read: more requests than may be inside, or a full queue. Pure ASGI: cheap.

Clients that ask again at once, whatever `Retry-After` says, would have the processor to themselves. FastAPI's
way to the same answer costs two and a half times as much, and refusals beyond what is sensible are held.
"""

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.batching import QueueFull
from service.errors import RULES, problem, retry_after
from service.metrics import Metrics

_SCORING = ("/score", "/v1/score")
_ASIDE = (b"priority", b"idempotency")  # has another queue, or may need none
_EACH_S, _AHEAD_S, _HOLD_S = 0.01, 0.2, 0.03  # a hundred refusals a second, twenty ahead of that


class Door:
    """Lets at most `limit` POST requests in at once, and none to score while `full()` says why not.

    The rest get 429 with `Retry-After`; `seconds_for(n)` tells how long that many take by what was measured
    lately. Beyond a hundred refusals a second, and twenty at once, each is held for 30 ms.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: int,
        full: Callable[[], QueueFull | None],
        seconds_for: Callable[[int], float],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._limit = limit
        self._full = full
        self._seconds_for = seconds_for
        self._metrics = metrics
        self._inside = 0
        self._due = 0.0  # when the refusals so far would have left, one after the other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._pace()
            await refusal(scope, receive, send)
            return
        self._inside += 1
        self._metrics.in_flight.set(self._inside)
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
            self._metrics.in_flight.set(self._inside)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if self._inside >= self._limit:
            detail = f"{self._limit} requests are already in flight; try again shortly"
            # The body is not read, so the connection cannot be used again.
            headers = retry_after(self._seconds_for(self._inside)) | {"Connection": "close"}
            return self._refused("too_many_requests", detail, headers)
        if scope["path"] in _SCORING and not _goes_aside(scope) and (full := self._full()):
            return self._refused(
                RULES[QueueFull].reason, str(full), retry_after(full.retry_after_s)
            )
        return None

    def _refused(self, code: str, detail: str, headers: dict[str, str]) -> ASGIApp:
        self._metrics.rejected.labels(code).inc()
        return problem(429, code, detail, headers)

    async def _pace(self) -> None:
        now = time.monotonic()
        ahead_s = max(self._due - now, 0.0) + _EACH_S
        self._due = now + min(ahead_s, _AHEAD_S)
        if ahead_s > _AHEAD_S:
            await asyncio.sleep(_HOLD_S)


def _goes_aside(scope: Scope) -> bool:
    given = (scope["query_string"], *(name for name, _ in scope["headers"]))
    return any(word in text for word in _ASIDE for text in given)
