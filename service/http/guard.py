"""Who asks, and for what: looked at before one byte of a body is read, on every route. Pure ASGI.

The table of routes and roles is made of the routers when the app is built; a route that declares
neither a role nor that it is open stops the start. What a route may read is bounded here as well,
in bytes and in seconds, whoever reads it.
"""

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, ForeignHost, ServiceError
from service.http.api_keys import Role
from service.http.auth import authenticate
from service.http.origin import names_host
from service.http.problems import refusal
from service.http.sessions import Sessions
from service.metrics import Metrics

_JSON_BYTES = 1_000_000  # of a body that is JSON only, or that no route reads
_DIGITS = 15  # of a length that is worth reading
_JSON = {"application/json"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route asks for: a role (None: anybody), and how many bytes its body may have."""

    methods: Collection[str]
    path: re.Pattern[str]
    role: Role | None
    max_bytes: int


_NO_ROUTE = Rule((), re.compile(""), Role.READ, _JSON_BYTES)  # not even that there is none
_DOCUMENTS = Rule(
    ("GET", "HEAD"), re.compile("/(docs|redoc|openapi.json)(/.*)?$"), None, _JSON_BYTES
)


def rules_of(routes: Iterable[Any], *, bulk_bytes: int, open_paths: Collection[str]) -> list[Rule]:
    """Make the table; raises `LookupError` for a route of which nobody said who may ask it."""
    rules = [_DOCUMENTS]
    for route in routes:
        assert isinstance(route, APIRoute)
        is_open = route.path in open_paths or getattr(route.endpoint, "is_open", False)
        role = None if is_open else _declared(route)
        if role is None and not is_open:
            raise LookupError(f"{route.path} declares no role; give it Depends(needs(Role…))")
        limit = _JSON_BYTES if _reads(route) <= _JSON else bulk_bytes
        rules.append(Rule(route.methods or (), route.path_regex, role, limit))
    return rules


def _declared(route: APIRoute) -> Role | None:
    dependencies = [
        route.endpoint,
        *(
            dependency.dependency
            for dependency in route.dependencies
            if isinstance(dependency, Depends)
        ),
    ]
    return next(
        (
            role
            for dependency in dependencies
            if (role := getattr(dependency, "role", None)) is not None
        ),
        None,
    )


def _reads(route: APIRoute) -> set[str]:
    """Media types of the bodies that a route takes."""
    extra = route.openapi_extra or {}
    return set(extra.get("requestBody", {}).get("content", {}))


class Guard:
    """Lets a request in when its key has the role that its route asks for; see the module.

    `sessions` has the keys, too; it is None where authentication is off: then only whoever names
    this machine (`hosts` are its further names) and comes from no foreign web page is let in.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: list[Rule],
        sessions: Sessions | None,
        hosts: Collection[str],
        read_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._rules = rules
        self._sessions = sessions
        self._hosts = {*hosts, *_OWN_NAMES}
        self._read_timeout_s = read_timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a bounded body, or refuse it unread."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = self._rule(scope) or _NO_ROUTE
        try:
            self._check(scope, rule)
        except ServiceError as error:
            await refusal(scope, error, self._metrics)(scope, receive, send)
            return
        await self._app(scope, Body(receive, rule.max_bytes, self._read_timeout_s), send)

    def _rule(self, scope: Scope) -> Rule | None:
        method, path = scope["method"], scope["path"]
        for rule in self._rules:
            if method in rule.methods and rule.path.match(path):
                return rule
        return None

    def _check(self, scope: Scope, rule: Rule) -> None:
        """Raise a `ServiceError` unless this request may be answered."""
        if self._sessions is None:
            self._check_host(scope)
        if rule.role is not None:
            authenticate(scope, self._sessions, rule.role)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if len(declared) > _DIGITS or not declared.isdigit() or int(declared) > rule.max_bytes:
            raise BodyTooLarge(
                f"the body is larger than {rule.max_bytes} bytes, the most for this request; raise "
                "MASKLINE_MAX_BULK_BYTES where it is one of many images"
            )

    def _check_host(self, scope: Scope) -> None:
        """Raise `ForeignHost` where a web page, or a name that was rebound to here, asks."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = _name_of(host)
        if name and name not in self._hosts and not _is_address(name):
            raise ForeignHost(
                f"this service does not go by the name {name[:80]!r}; ask it by its address, add "
                "the name to MASKLINE_ALLOWED_HOSTS, or serve with API keys"
            )
        origin = headers.get(b"origin")
        if origin is not None and not names_host(origin.decode("latin-1"), host):
            raise ForeignHost(
                "a page of another origin may not ask a service without API keys; serve with keys"
            )


class Body:
    """Receives a request's body, no more and no longer than it may have.

    Raises `HTTPException` 413 or 408, which FastAPI passes on from wherever it reads.
    """

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._bytes_left = max_bytes
        self._max_bytes = max_bytes
        self._until = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._is_whole = False

    async def __call__(self) -> Message:
        """Receive the next message."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            text = f"the body did not arrive within {self._timeout_s:g} s"
            raise HTTPException(408, text, {"Connection": "close"}) from None
        self._bytes_left -= len(message.get("body", b""))
        if self._bytes_left < 0:
            text = f"the body is larger than {self._max_bytes} bytes, the most for this request"
            raise HTTPException(413, text, {"Connection": "close"})
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _name_of(host: str) -> str:
    """Return a Host header's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_OWN_NAMES = {"localhost", socket.gethostname().lower()}
