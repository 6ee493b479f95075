"""Refuses before reading: more requests than may be inside, or a full queue. Cheap: pure ASGI.

No API key takes what others need: of the places, a key may hold an even share of those that were
asked for lately and one more, so that there is room for a key that comes. With a single key it may
hold all.

Clients that ask again at once, whatever `Retry-After` says, would have the processor to themselves.
FastAPI's way to the same answer costs two and a half times as much, and refusals beyond what is
sensible are held.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.login_limit import is_login
from service.http.problems import RULES, problem, retry_after
from service.inference.queue import QueueFull
from service.metrics import Metrics

_SCORING = ("/score", "/v1/score")
_ASIDE = (b"priority", b"idempotency")  # has another queue, or may need none
_LATELY_S = 60.0  # a key that asked within it may ask again
_EACH_S, _AHEAD_S, _HOLD_S = 0.01, 0.2, 0.03  # a hundred refusals a second, twenty ahead of that


class Door:
    """Lets at most `limit` POST requests in at once, and none to score while `full()` says why not.

    One key may hold no more than its share of `shared` places, which are those of the queue where
    it has fewer than the door; `rivals()` is how many keys there are. The rest get 429 with
    `Retry-After`; `seconds_for(n)` tells how long that many take by what was measured lately.
    Beyond a hundred refusals a second, and twenty at once, each is held for 30 ms.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: int,
        shared: int,
        rivals: Callable[[], int],
        full: Callable[[], QueueFull | None],
        seconds_for: Callable[[int], float],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._limit = limit
        self._shared = min(limit, shared)
        self._rivals = rivals
        self._held: Counter[str] = Counter()  # places by key
        self._last_asked: dict[str, float] = {}  # when each key asked last
        self._full = full
        self._seconds_for = seconds_for
        self._metrics = metrics
        self._inside = 0
        self._due = 0.0  # when the refusals so far would have left, one after the other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if scope["type"] != "http" or scope["method"] != "POST" or is_login(scope):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._pace()
            await refusal(scope, receive, send)
            return
        key = _key_of(scope)
        self._enter(key, 1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._enter(key, -1)

    def _enter(self, key: str, change: int) -> None:
        self._inside += change
        self._held[key] += change
        if not self._held[key]:
            del self._held[key]
        self._metrics.in_flight.set(self._inside)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if self._inside >= self._limit:
            detail = f"{self._limit} requests are already in flight; try again shortly"
            # The body is not read, so the connection cannot be used again.
            headers = retry_after(self._seconds_for(self._inside)) | {"Connection": "close"}
            return self._refused("too_many_requests", detail, headers)
        key = _key_of(scope)
        if self._held[key] >= (share := self._share(key)):
            detail = (
                f"{share} requests of this key are already in flight, its share; try again shortly"
            )
            headers = retry_after(self._seconds_for(share)) | {"Connection": "close"}
            return self._refused("too_many_requests", detail, headers)
        if scope["path"] in _SCORING and not _goes_aside(scope) and (full := self._full()):
            return self._refused(
                RULES[QueueFull].reason, str(full), retry_after(full.retry_after_s)
            )
        return None

    def _share(self, key: str) -> int:
        """How many places a key may hold now."""
        rivals = self._rivals()
        if rivals <= 1:
            return self._limit
        now = time.monotonic()
        self._last_asked[key] = now
        self._last_asked = {
            asking_key: at for asking_key, at in self._last_asked.items() if now - at < _LATELY_S
        }
        return max(1, self._shared // min(rivals, len(self._last_asked) + 1))

    def _refused(self, code: str, detail: str, headers: dict[str, str]) -> ASGIApp:
        self._metrics.rejected.labels(code).inc()
        return problem(429, code, detail, headers)

    async def _pace(self) -> None:
        now = time.monotonic()
        ahead_s = max(self._due - now, 0.0) + _EACH_S
        self._due = now + min(ahead_s, _AHEAD_S)
        if ahead_s > _AHEAD_S:
            await asyncio.sleep(_HOLD_S)


def _key_of(scope: Scope) -> str:
    """Name of the API key that a request came with, as the guard found it."""
    key: str = scope.get("state", {}).get("key", "")
    return key


def _goes_aside(scope: Scope) -> bool:
    names = (scope["query_string"], *(name for name, _ in scope["headers"]))
    return any(word in text for word in _ASIDE for text in names)
