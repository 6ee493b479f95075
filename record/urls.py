"""URLs that may be shown: without passwords and other secrets."""

import re

# Up to the last @ before a space: a password may hold any sign, also one that should have been
# escaped.
_USER = re.compile(r"(?<=://)[^\s]*@")
_QUERY = re.compile(
    r"([?&;][^=&\s]*(?:key|secret|token|pass|sig|cred|auth)[^=&\s]*=)[^&\s]*", re.IGNORECASE
)
_MIN_SECRET = 4  # signs of a secret; a shorter one would be found everywhere


def without_secrets(url: str) -> str:
    """Return a text with `***` for its URLs' secret parameters and what stands before an @."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", url))


def without_password(url: str) -> str:
    """Return one URL as it may be shown, whatever its password is made of."""
    scheme, separator, address = url.partition("://")
    if not separator:
        return url
    _, at, host = address.rpartition("@")
    return without_secrets(f"{scheme}://{'***@' if at else ''}{host if at else address}")


def secrets_of(url: str) -> list[str]:
    """Return what of a URL must not be shown anywhere, as it stands there."""
    _, separator, address = url.partition("://")
    user, at, _ = address.rpartition("@")
    secrets = [user, user.partition(":")[2]] if separator and at else []
    return [secret for secret in secrets if len(secret) >= _MIN_SECRET]
