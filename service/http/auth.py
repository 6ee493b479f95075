"""Who asks, and whether they may: checked before a body is read."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Scope

from record.result import JsonObject
from service.errors import CrossOrigin, KeyMissing, KeyUnknown, RoleInsufficient, SessionEnded
from service.http.api_keys import Key, KeyRing, Role, in_order, rights_of
from service.http.origin import is_own_page, is_safe
from service.http.sessions import COOKIE, Sessions, session_id_of
from service.logs import ACTOR, ANYBODY

# For the OpenAPI document; the headers are read by hand, which costs a tenth of FastAPI's own
# schemes.
SCHEMES: JsonObject = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "Set by POST /v1/session; `_` and the port follow the name where the "
        "address has one. Methods that change something need a page of the same origin.",
    },
}
EVERYTHING = frozenset({Role.ADMIN})  # what everybody may do where authentication is off
T = TypeVar("T", bound=Callable[..., Any])
SECURED: JsonObject = {"security": [{"bearer": []}, {"key": []}, {"session": []}]}


def needs(role: Role) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that names the role of a route; `service.http.guard` reads it first."""

    async def dependency(request: Request) -> None:
        check(request, role)

    dependency.role = role  # type: ignore[attr-defined]
    return dependency


def asks(role: Role) -> Callable[[T], T]:
    """Say which role a route asks for, without a dependency's cost."""

    def declare(endpoint: T) -> T:
        endpoint.role = role  # type: ignore[attr-defined]
        return endpoint

    return declare


def anybody(endpoint: T) -> T:
    """Say that a route is asked without a key."""
    endpoint.is_open = True  # type: ignore[attr-defined]
    return endpoint


def authenticate(scope: Scope, sessions: Sessions | None, role: Role) -> None:
    """Raise a `ServiceError` unless a request may do this; note in its state who asks.

    A key in a header goes before a session's cookie. `still_allowed` of the state tells an answer
    that goes on for long whether it still may. Without sessions (authentication is off) everyone
    may do everything.
    """
    state = scope.setdefault("state", {})
    if sessions is None:
        state.update(roles=EVERYTHING, still_allowed=_always)
        ACTOR.set(ANYBODY)
        return
    secret = _secret(Headers(scope=scope))
    if secret:
        key, still_allowed = _by_key(sessions.keys, secret, role)
    else:
        key, still_allowed = _by_session(scope, sessions, role)
    state.update(key=key.name, roles=key.roles, still_allowed=still_allowed)
    ACTOR.set(key.name)
    _require(key.name, key.roles, role)


def check(request: Request, role: Role) -> None:
    """Raise `RoleInsufficient` unless a request that `authenticate` let in may do this as well."""
    state = request.scope["state"]
    _require(state.get("key", ANYBODY), state["roles"], role)


def still_allowed(request: Request) -> Callable[[], bool]:
    """Return what says, as often as it is called, whether a request would be let in again now.

    For an answer that goes on for hours, over which a key may be revoked.
    """
    allowed: Callable[[], bool] = request.scope["state"]["still_allowed"]
    return allowed


def _by_key(keys: KeyRing, secret: str, role: Role) -> tuple[Key, Callable[[], bool]]:
    key = keys.find(secret)
    if key is None:
        raise KeyUnknown("the API key is not known, or was revoked")
    return key, partial(keys.may, key.sha256, role)


def _by_session(scope: Scope, sessions: Sessions, role: Role) -> tuple[Key, Callable[[], bool]]:
    session_id = session_id_of(scope)
    if not session_id:
        raise KeyMissing("send an API key: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
    key = sessions.find(session_id)
    if key is None:
        raise SessionEnded(
            "the session has ended: twelve hours, a restart, or its key was revoked; log in again"
        )
    if not is_safe(scope) and not is_own_page(scope):
        raise CrossOrigin(
            "a session's cookie changes something only from a page of this service; programs send "
            "an API key"
        )
    return key, partial(sessions.may, session_id, role)


def _always() -> bool:
    return True


def _require(name: str, roles: frozenset[Role], role: Role) -> None:
    if role not in rights_of(roles):
        held = f"role{'s' * (len(roles) > 1)} {', '.join(in_order(roles))}"
        raise RoleInsufficient(f"key {name!r} has the {held}; this needs {role}")


def _secret(headers: Headers) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme == "AWS4-HMAC-SHA256":  # an AWS client: its access key id is our key
        return credentials.partition("Credential=")[2].partition("/")[0]
    return headers.get("x-api-key", "")
