"""API keys: who may ask for what. Only SHA-256 digests are stored; a new key is shown once.

Keys are 256 random bits, so a plain digest cannot be guessed back and needs no slow hash.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path

from record.result import JsonObject

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[\w.@-]{1,64}")
_PREFIX = "mk_"
_AGAIN_S = 1.0  # after it could not be read, a file is read again as often


class Role(StrEnum):
    """What a key may do; some roles contain others, see `rights_of`."""

    READ = "read"  # models, drift and metrics: in every other role
    VIEW = "view"  # results, pictures, reports
    REVIEW = "review"  # say what a part really was
    SCORE = "score"  # send images
    OPERATE = "operate"  # calibrate and switch models
    ADMIN = "admin"


_CONTAINS = {
    Role.READ: {Role.READ},
    Role.VIEW: {Role.READ, Role.VIEW},
    Role.REVIEW: {Role.READ, Role.VIEW, Role.REVIEW},
    Role.SCORE: {Role.READ, Role.SCORE},
    Role.OPERATE: {*Role} - {Role.ADMIN},
    Role.ADMIN: {*Role},
}


@cache
def rights_of(roles: frozenset[Role]) -> frozenset[Role]:
    """Return these roles and those that they contain."""
    return frozenset().union(*(_CONTAINS[role] for role in roles))


def in_order(roles: Iterable[Role]) -> list[Role]:
    """Sort roles as they are listed everywhere, the smallest first."""
    return sorted(roles, key=[*Role].index)


class KeysError(Exception):
    """The keys file cannot be used, or not in the way that was asked; `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its digest, not itself."""

    name: str
    roles: frozenset[Role]
    sha256: str
    created: str

    def may(self, role: Role) -> bool:
        """Whether one of its roles is this one, or contains it."""
        return role in rights_of(self.roles)


class KeyRing:
    """The keys of a file, read again when it changes.

    A file that was removed has no keys. While one is damaged or cannot be opened, the keys read
    last stay valid and each attempt to read it is made anew, so that a revoked key is out as soon
    as it can be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._keys = read_keys(path)
        self._stamp = _stamp(path)
        self._failed: tuple[Stamp | None, float] = (None, -math.inf)

    def __len__(self) -> int:
        """Return how many keys are valid."""
        return len(self._keys)

    def find(self, secret: str) -> Key | None:
        """Return the key that this secret is; takes as long whether or which it is."""
        return self.with_digest(key_digest(secret))

    def with_digest(self, digest: str) -> Key | None:
        """Return the key of which this is stored, as it is now; None of one that was revoked."""
        self._refresh()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                match = key
        return match

    def may(self, digest: str, role: Role) -> bool:
        """Whether the key of which this is stored is still valid, and may do this."""
        key = self.with_digest(digest)
        return key is not None and key.may(role)

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp is not None and stamp == self._stamp:
            return
        with self._reading:
            now = time.monotonic()
            if self._failed[0] == stamp and now < self._failed[1] + _AGAIN_S:
                return
            try:
                self._keys = read_keys(self._path)
            except KeysError as error:
                _log.error("%s; the keys read before stay valid until it can be read", error)
                self._failed = (stamp, now)
            else:
                self._stamp = stamp  # taken before reading: what changed meanwhile is read again


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a keys file; one that is not there has no keys. Raises `KeysError`."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["keys"]
        return tuple(
            Key(row["name"], _roles_in(row), row["sha256"], row["created"]) for row in rows
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeysError("keys_unusable", f"the keys file {path} cannot be used: {error}") from error


def add_key(path: Path, name: str, *roles: Role) -> str:
    """Add a key and return it; it is not stored and cannot be shown again. Raises `KeysError`."""
    keys = read_keys(path)
    if not roles:
        raise KeysError("key_role_missing", f"give the key {name!r} a role at least")
    if not _NAME.fullmatch(name):
        raise KeysError("key_name_invalid", f"{name!r}: use letters, digits, '.', '_', '@', '-'")
    if any(key.name == name for key in keys):
        raise KeysError("key_exists", f"there is a key called {name!r}; revoke it first")
    secret = _PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _write(path, (*keys, Key(name, frozenset(roles), key_digest(secret), now)))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key; a running service takes notice by its next request. Raises `KeysError`."""
    keys = read_keys(path)
    remaining = tuple(key for key in keys if key.name != name)
    if len(remaining) == len(keys):
        raise KeysError("key_not_found", f"there is no key called {name!r} in {path}")
    _write(path, remaining)


def key_digest(secret: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _roles_in(row: JsonObject) -> frozenset[Role]:
    """Roles of a stored key: `role`, or `roles` where it has several."""
    names = [row["role"]] if "role" in row else row["roles"]
    if not isinstance(names, list) or not names:
        raise ValueError(f"the key {row['name']!r} has no list of roles")
    return frozenset(Role(name.lower()) for name in names)


def _row_of(key: Key) -> JsonObject:
    """What is stored of a key; a single role as releases before this one wrote and read it."""
    names = [role.value for role in in_order(key.roles)]
    held = {"role": names[0]} if len(names) == 1 else {"roles": names}
    return {"name": key.name, **held, "sha256": key.sha256, "created": key.created}


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    rows = [_row_of(key) for key in keys]
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"keys": rows}, file, indent=2)
            with contextlib.suppress(FileNotFoundError, PermissionError, AttributeError):
                before = path.stat()  # root may add a key for a service that is not
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
        staging.replace(path)
    except OSError as error:
        raise KeysError("keys_unusable", f"cannot write {path}: {error.strerror}") from error


Stamp = tuple[int, int, int, int]


def _stamp(path: Path) -> Stamp | None:
    """What changes with a file's contents; None where it cannot be looked at."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0, 0, 0)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
