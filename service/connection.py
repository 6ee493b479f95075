"""Connections that bring no request are closed: uvicorn waits for a request's head for ever, of any length.

A camera PC that opens a connection for each part and closes none would otherwise use up the files that the
process may open, and nobody would be let in any more.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_BYTES = 65_536  # of a head
_MOST_CONNECTIONS = 1000
_BRIEF_S = 5.0  # who idles no longer than this may be about to ask


def room_for_connections() -> int:
    """Half of the files that this process may open, 1000 at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MOST_CONNECTIONS, files // 2)


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection on which no head of a request is complete `head_s` seconds after it began.

    The first may begin when the connection is there, those after an answer with their first byte: until then
    uvicorn's `timeout_keep_alive` holds. What was left unread of the request before has the same time. A head
    that is not complete after 64 KB is answered 400. Where there are more than `room` connections, a new one
    ends the one that has been idle the longest, five seconds at least.
    """

    def __init__(self, *, head_s: float, room: int, **given: Any) -> None:
        super().__init__(**given)
        self._head_s = head_s
        self._room = room
        self._head_bytes = 0
        self._in_head = False
        self._in_body = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self._room:
            self._end_longest_idle()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what is still a head."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        was_in_body = self._in_body  # of a request that was answered unread
        super().data_received(data)
        if was_in_body or self._in_body or self._timer is None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_BYTES:
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """The first byte of a head is there."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: what follows has limits of its own."""
        self._stop_waiting()
        self._in_head = False
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is the head of another request."""
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for a head that began before this answer."""
        super().on_response_complete()
        if self._in_head and self.cycle.response_complete and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _end_longest_idle(self) -> None:
        before = self.loop.time() + self.timeout_keep_alive - _BRIEF_S
        idle = {
            one: one.timeout_keep_alive_task.when()
            for one in self.connections
            if isinstance(one, BoundedConnection)
            and one.timeout_keep_alive_task is not None
            and one.timeout_keep_alive_task.when() <= before
            and one._timer is None  # else the head of its next request has begun
            and not one.transport.is_closing()
        }
        if idle:
            min(idle, key=idle.__getitem__).transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self._head_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
