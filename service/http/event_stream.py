"""An answer that goes on: events as they come, until the client leaves or the service drains."""

import asyncio
import time
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.events import Subscription

KEEP_ALIVE_S = 15.0  # proxies take a connection without a byte for dead
_CHECK_S = 3.0  # a revoked key is looked for no more often


class EventStream(Response):
    """Server-sent events of one subscription, while `still_allowed()`.

    FastAPI's own streams serialise each event for each client, in two tasks; here all clients are
    sent the same bytes. The request's body must have been read.
    """

    media_type = "text/event-stream"

    def __init__(self, subscription: Subscription, still_allowed: Callable[[], bool]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"X-Accel-Buffering": "no"})  # nginx would collect pages of it
        self._subscription = subscription
        self._still_allowed = still_allowed
        self._check_at = time.monotonic() + _CHECK_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until it ends."""
        leaving = asyncio.create_task(self._end_with_client(receive))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            while (blocks := await self._subscription.read(KEEP_ALIVE_S)) and self._is_allowed():
                await send({"type": "http.response.body", "body": blocks, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            self._subscription.close()

    async def _end_with_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._subscription.close()

    def _is_allowed(self) -> bool:
        if (now := time.monotonic()) < self._check_at:
            return True
        self._check_at = now + _CHECK_S
        return self._still_allowed()
