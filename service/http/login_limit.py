"""Slows down whoever guesses keys at `POST /v1/session`, the only body read without one. Pure ASGI.

What strangers can send there is bounded in bytes, in seconds, and in how many are read at once, by
the client's address and in all. No login takes one of the places that the line's images have.
"""

import ipaddress
import time
from collections import Counter, deque
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooManyLogins
from service.http.guard import Body
from service.http.problems import refusal
from service.metrics import Metrics

LOGIN = "/v1/session"
_WRONG = 10  # keys of an address, in
_WINDOW_S = 60.0
_MOST_ADDRESSES = 1000
_AT_ONCE, _AT_ONCE_IN_ALL = 4, 32
_SOON_S = 1.0
_BODY_BYTES, _BODY_S = 4096, 5.0
_HOME_BITS = 64  # of an IPv6 address; whoever has one has all that begin so


class LoginLimit:
    """Refuses to read a login of an address that sent ten wrong keys within a minute."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}  # when, by address, the last that was wrong last
        self._inside: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if not is_login(scope):
            await self._app(scope, receive, send)
            return
        address = address_of(scope)
        try:
            self._check(address)
        except TooManyLogins as error:
            await refusal(scope, error, self._metrics)(scope, receive, send)
            return

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                self._note_wrong(address)
            await send(message)

        self._enter(address, 1)
        try:
            await self._app(scope, Body(receive, _BODY_BYTES, _BODY_S), send_noted)
        finally:
            self._enter(address, -1)

    def _check(self, address: str) -> None:
        times = self._wrong.get(address, deque())
        if len(times) == _WRONG and (left_s := times[0] + _WINDOW_S - self._clock()) > 0:
            raise TooManyLogins(
                f"{_WRONG} keys from this address were wrong within a minute; wait, and look the "
                "key up",
                left_s,
            )
        if self._inside[address] >= _AT_ONCE or self._inside.total() >= _AT_ONCE_IN_ALL:
            raise TooManyLogins("too many log in at once; try again shortly", _SOON_S)

    def _note_wrong(self, address: str) -> None:
        times = self._wrong.pop(address, deque(maxlen=_WRONG))
        times.append(self._clock())
        self._wrong[address] = times
        if len(self._wrong) > _MOST_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]

    def _enter(self, address: str, change: int) -> None:
        self._inside[address] += change
        if not self._inside[address]:
            del self._inside[address]


def is_login(scope: Scope) -> bool:
    """Whether a request would open a session."""
    return scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", LOGIN)


def address_of(scope: Scope) -> str:
    """Return the client's address; of an IPv6 one the part that a household or an office shares."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)[:64]
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _HOME_BITS), strict=False))
