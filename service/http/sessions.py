"""Who logged in with a key: a browser's cookie holds a random id, for which a key stands here.

EventSource and `<img>` send no headers of ours; a cookie they do. Sessions live in memory: a
restart ends all of them. Only digests are stored, of ids as of keys.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from service.http.api_keys import Key, KeyRing, Role

LIFE_S = 12 * 3600
COOKIE = "maskline_session"
_MOST = 1000
_MOST_A_KEY = 50
_PORT = re.compile(r":(\d{1,5})$")


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that is logged in."""

    key_digest: str
    ends_at: float


class Sessions:
    """Opens, finds and ends sessions; beyond 1,000, or 50 of a key, the oldest goes."""

    def __init__(self, keys: KeyRing, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys = keys
        self._clock = clock
        self._sessions: dict[str, Session] = {}  # by the id's digest, the oldest first

    def __len__(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def open(self, key: Key) -> str:
        """Begin a session of a key, and return its id."""
        self._forget_ended()
        of_key = [
            digest for digest, session in self._sessions.items() if session.key_digest == key.sha256
        ]
        if len(of_key) >= _MOST_A_KEY:
            del self._sessions[of_key[0]]
        elif len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        session_id = secrets.token_urlsafe(32)
        self._sessions[_digest(session_id)] = Session(key.sha256, self._clock() + LIFE_S)
        return session_id

    def find(self, session_id: str) -> Key | None:
        """Return the session's key as it is now; None where the session or the key has ended."""
        digest = _digest(session_id)
        session = self._sessions.get(digest)
        if session is None:
            return None
        key = self.keys.with_digest(session.key_digest)
        if key is None or session.ends_at <= self._clock():
            del self._sessions[digest]
            return None
        return key

    def end(self, session_id: str) -> None:
        """End a session, if it is one."""
        self._sessions.pop(_digest(session_id), None)

    def may(self, session_id: str, role: Role) -> bool:
        """Whether a session goes on and may do this."""
        key = self.find(session_id)
        return key is not None and key.may(role)

    def _forget_ended(self) -> None:
        now = self._clock()
        self._sessions = {
            digest: session for digest, session in self._sessions.items() if session.ends_at > now
        }


def cookie_name(scope: Scope) -> str:
    """Return the cookie's name, with the port in it: a browser shares cookies between ports."""
    port = _PORT.search(Headers(scope=scope).get("host", ""))
    return COOKIE if port is None else f"{COOKIE}_{port[1]}"


def session_id_of(scope: Scope) -> str:
    """Return the session's id that a request came with; empty without one."""
    cookies = Headers(scope=scope).get("cookie")
    return "" if cookies is None else cookie_parser(cookies).get(cookie_name(scope), "")


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogateescape")).hexdigest()
