"""Closes connections without a request: uvicorn waits for a head for ever, of any length.

A camera PC that opens a connection for each part and closes none would otherwise use up the files
that the process may open, and nobody would be let in any more. The same holds for whoever begins
heads and ends none, or asks and never reads.
"""

import asyncio
import resource
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_BYTES = 65_536  # of a head
_MOST_CONNECTIONS = 1000
_BRIEF_S = 5.0  # who idles no longer than this may be about to ask
_HEAD_S = 0.5  # a head takes longer only where somebody holds it back
_UNREAD, _LATE_HEAD, _IDLE, _HEAD = range(4)  # in this order they have to go
_LINGER_S, _LINGER_BYTES = 1.0, 8_000_000  # what is thrown away so that a refusal can be read


def room_for_connections() -> int:
    """Half of the files this process may open, at most 1000: models and record need the rest."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MOST_CONNECTIONS, files // 2)


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection whose request head is not complete `head_s` seconds after it began.

    The first may begin when the connection is there, those after an answer with their first byte:
    until then uvicorn's `timeout_keep_alive` holds. What was left unread of the request before has
    the same time. A head that is not complete after 64 KB is answered 400. An answer that nobody
    reads for `head_s` seconds ends its connection. Where there are more than `room` connections, a
    new one ends another without a request in work: one whose reader or whose head is late, one that
    has been idle for five seconds or longer, or else the one whose head began first; where there is
    none of these, the new one is closed.

    A connection that is closed before its request was read throws away what comes for a second, so
    that the answer is read: closed at once, it would be reset, and the answer lost.
    """

    def __init__(self, *, head_s: float, room: int, **protocol_options: Any) -> None:
        super().__init__(**protocol_options)
        self._head_s = head_s
        self._room = room
        self._head_bytes = 0
        self._in_head = False
        self._in_body = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None  # until an answer must have been read
        self._lingering: asyncio.TimerHandle | None = None
        self._thrown_bytes = 0
        self._is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.transport = LingeringTransport(transport, self)  # type: ignore[assignment]
        self._wait()
        open_now = sum(
            not connection.transport.is_closing() for connection in _bounded(self.connections)
        )
        if open_now > self._room and not end_least_needed(self.connections, spare=self):
            self._abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and count what is still a head."""
        if self._lingering is not None:
            self._thrown_bytes += len(data)
            if self._thrown_bytes > _LINGER_BYTES:
                self._end()
            return
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

    def pause_writing(self) -> None:
        """The reader is slow: it has `head_s` seconds to go on."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self._head_s, self._abort)

    def resume_writing(self) -> None:
        """The reader goes on."""
        super().resume_writing()
        if self._writing is not None and not self.transport.is_closing():
            self._writing.cancel()
            self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._is_lost = True
        self._stop_waiting()
        for timer in (self._writing, self._lingering):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @property
    def is_mid_body(self) -> bool:
        """Whether a request's body is not here to its end."""
        return self._in_body

    @property
    def is_lingering(self) -> bool:
        """Whether what comes is thrown away until the connection is closed."""
        return self._lingering is not None

    def linger(self) -> None:
        """Throw away what comes for a moment, then close."""
        if self._lingering is None:
            self._stop_waiting()
            self.flow.resume_reading()
            self._lingering = self.loop.call_later(_LINGER_S, self._end)

    @property
    def worth(self) -> tuple[int, float] | None:
        """How little a connection is needed, the least first; None of one that must stay."""
        if self._writing is not None:
            return _UNREAD, self._writing.when()
        if self._lingering is not None:
            return _UNREAD, self._lingering.when()
        if self._timer is not None:
            due = self._timer.when()
            is_late = due < self.loop.time() + self._head_s - _HEAD_S
            return (_LATE_HEAD if is_late else _HEAD), due
        idle = self.timeout_keep_alive_task
        if idle is None or idle.when() > self.loop.time() + self.timeout_keep_alive - _BRIEF_S:
            return None
        return _IDLE, idle.when()

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self._head_s, self._end)

    def _end(self) -> None:
        """Close, and abort where what was written is not read."""
        if isinstance(self.transport, LingeringTransport) and not self._is_lost:
            self.transport.close_now()
            if self._writing is None:
                self._writing = self.loop.call_later(self._head_s, self._abort)

    def _abort(self) -> None:
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def end_least_needed(
    connections: Iterable[object], *, spare: BoundedConnection | None = None
) -> bool:
    """End the connection that is needed least; False where all have a request in work."""
    ranked = [
        (connection.worth, connection)
        for connection in _bounded(connections)
        if connection is not spare
        and connection.worth is not None
        and not connection.transport.is_closing()
    ]
    if not ranked:
        return False
    worth, victim = min(ranked, key=lambda pair: pair[0])
    if worth[0] == _IDLE:
        victim._end()
    else:
        victim._abort()
    return True


def _bounded(connections: Iterable[object]) -> list[BoundedConnection]:
    return [connection for connection in connections if isinstance(connection, BoundedConnection)]


class LingeringTransport:
    """A connection's transport; a close during a request lets the client read the answer first."""

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close, after a moment where a body is still on its way."""
        if self._connection.is_mid_body and not self._transport.is_closing():
            self._connection.linger()
        else:
            self._connection._end()

    def close_now(self) -> None:
        """Close as soon as what was written is sent."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more is to be written."""
        return self._connection.is_lingering or self._transport.is_closing()
