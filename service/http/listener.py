"""Takes connections instead of an `asyncio.Server`, which keeps whoever begins a TLS handshake.

It holds no more than it has room for: those that shake hands count as well, and have a limit of
time.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Set

from service.http.connection import BoundedConnection, end_least_needed

_log = logging.getLogger(__name__)
_BACKLOG = 2048
_NO_FILES_S = 0.1


class _Handshake:
    """A connection that is not made yet."""

    def __init__(self, connection: socket.socket, since: float) -> None:
        self._connection = connection
        self._since = since
        self._is_ended = False

    @property
    def since(self) -> float | None:
        """Since when it has been there; None where it was ended already."""
        return None if self._is_ended else self._since

    def end(self) -> None:
        """Break the handshake off: what makes it finds the connection closed."""
        self._is_ended = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class Listener:
    """Accepts each connection; with `room` taken, one that has no request in work is closed."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], BoundedConnection],
        connections: Set[object],
        *,
        tls: ssl.SSLContext | None,
        handshake_s: float,
        room: int,
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._tls = tls
        self._handshake_s = handshake_s
        self._room = room
        self._opening: dict[_Handshake, asyncio.Task[None]] = {}
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept_all())

    def close(self) -> None:
        """Take no more connections, and end those that are not made yet."""
        self._accepting.cancel()
        for handshake in self._opening:
            handshake.end()

    async def wait_closed(self) -> None:
        """Wait for the end of all handshakes."""
        await asyncio.gather(self._accepting, *self._opening.values(), return_exceptions=True)

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except (
                OSError
            ) as error:  # no files are left, though room is kept; or the client has gone
                _log.warning("a connection cannot be taken: %s", error)
                self._make_room()
                await asyncio.sleep(_NO_FILES_S)
                continue
            if self._is_full() and not self._make_room():
                connection.close()  # everybody has a request in work
                continue
            handshake = _Handshake(connection, loop.time())
            self._opening[handshake] = asyncio.create_task(self._open(connection, handshake))

    async def _open(self, connection: socket.socket, handshake: _Handshake) -> None:
        limit = self._handshake_s if self._tls else None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _end_when_silent(connection, 2 * self._handshake_s)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=limit,
                ssl_shutdown_timeout=limit,
            )
        except OSError as error:  # of TLS, too: no fault of ours
            _log.debug("a connection was not made: %s", error)
            connection.close()
        finally:
            del self._opening[handshake]

    def _is_full(self) -> bool:
        return len(self._connections) + len(self._opening) >= self._room

    def _make_room(self) -> bool:
        waiting = [opening for opening in self._opening if opening.since is not None]
        if waiting:
            min(waiting, key=lambda opening: opening.since or 0.0).end()
            return True
        return end_least_needed(self._connections)


def _end_when_silent(connection: socket.socket, seconds: float) -> None:
    """Let what is sent and not acknowledged end a connection: its client was switched off.

    The kernel by itself tries for a quarter of an hour, in which a stream of events keeps a place.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        milliseconds = round(1000 * seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
