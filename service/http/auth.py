"""Who asks, and whether they may: checked before a body is read."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Scope

from record.result import JsonObject
from service.errors import KeyMissing, KeyUnknown, RoleInsufficient
from service.http.api_keys import KeyRing, Role
from service.logs import ACTOR, ANYBODY

# For the OpenAPI document; the headers are read by hand, which costs a tenth of FastAPI's own
# schemes.
SCHEMES: JsonObject = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
T = TypeVar("T", bound=Callable[..., Any])
SECURED: JsonObject = {"security": [{"bearer": []}, {"key": []}]}


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


def authenticate(scope: Scope, ring: KeyRing | None, role: Role) -> None:
    """Raise `KeyMissing`, `KeyUnknown` or `RoleInsufficient` unless a request may do this.

    Without a key ring (authentication is off) everyone may do everything.
    """
    if ring is None:
        scope.setdefault("state", {}).update(role=Role.ADMIN)
        ACTOR.set(ANYBODY)
        return
    secret = _secret(Headers(scope=scope))
    if not secret:
        raise KeyMissing("send an API key: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
    key = ring.find(secret)
    if key is None:
        raise KeyUnknown("the API key is not known, or was revoked")
    scope.setdefault("state", {}).update(key=key.name, role=key.role)
    ACTOR.set(key.name)
    _require(key.name, key.role, role)


def check(request: Request, role: Role) -> None:
    """Raise `RoleInsufficient` unless a request that `authenticate` let in may do this as well."""
    state = request.scope["state"]
    _require(state.get("key", ANYBODY), state["role"], role)


def _require(name: str, held: Role, role: Role) -> None:
    if held < role:
        raise RoleInsufficient(
            f"key {name!r} has the role {held.name.lower()}; this needs {role.name.lower()}"
        )


def _secret(headers: Headers) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme == "AWS4-HMAC-SHA256":  # an AWS client: its access key id is our key
        return credentials.partition("Credential=")[2].partition("/")[0]
    return headers.get("x-api-key", "")
