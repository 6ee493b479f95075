"""Which page asks: one of this service's own, or a foreign one in the same browser."""

from starlette.datastructures import Headers
from starlette.types import Scope

_SAFE = ("GET", "HEAD", "OPTIONS")


def is_safe(scope: Scope) -> bool:
    """Whether a request's method changes nothing."""
    return scope["method"] in _SAFE


def is_own_page(scope: Scope) -> bool | None:
    """Whether a page of this service asks; None where the request does not say.

    Browsers send `Sec-Fetch-Site` over TLS and to this machine only; elsewhere `Origin`, with every
    unsafe method.
    """
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    return None if origin is None else names_host(origin, headers.get("host", ""))


def names_host(origin: str, host: str) -> bool:
    """Whether an `Origin` is that of the host that a request names."""
    return origin.partition("://")[2].lower() == host.lower()
