"""Who asks, and whether they may: checked before a body is read."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from service.errors import KeyMissing, KeyUnknown, RoleInsufficient
from service.keys import KeyRing, Role
from service.logs import ACTOR

# For the OpenAPI document; the headers are read by hand, which costs a tenth of FastAPI's own schemes.
SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
SECURED: dict[str, Any] = {"security": [{"bearer": []}, {"key": []}]}


def needs(role: Role) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets only keys of at least this role pass; see `check`."""

    async def dependency(request: Request) -> None:
        check(request, role)

    return dependency


def check(request: Request, role: Role) -> None:
    """Raise `KeyMissing`, `KeyUnknown` or `RoleInsufficient` unless the request may do this.

    Without a key ring (authentication is off) everyone may do everything.
    """
    ring: KeyRing | None = request.app.state.keys
    if ring is None:
        ACTOR.set("anybody")
        return
    secret = _secret(request)
    if not secret:
        raise KeyMissing("send an API key: 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
    key = ring.find(secret)
    if key is None:
        raise KeyUnknown("the API key is not known, or was revoked")
    request.state.key = key.name
    ACTOR.set(key.name)
    if key.role < role:
        raise RoleInsufficient(
            f"key {key.name!r} has the role {key.role.name.lower()}; this needs {role.name.lower()}"
        )


def _secret(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme == "AWS4-HMAC-SHA256":  # an AWS client: its access key id is our key
        return credentials.partition("Credential=")[2].partition("/")[0]
    return request.headers.get("x-api-key", "")
