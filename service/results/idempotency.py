"""Requests that carry an idempotency key: one inspection, and its answer for every repeat.

A key is its caller's and its camera's own, and stands for one request: the same key with another
image or other parameters is refused, never answered with somebody else's verdict. Whoever comes
first reserves the key before anything is awaited; others wait for the answer, and where the first
fails or leaves, one of them takes its turn. This module knows one process; what another process
answered is asked of the record.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from service.errors import IdempotencyMismatch
from service.schemas.scoring import ScoreOut, ScoreQuery

_REMEMBERED = 10_000  # answers, for repeats that come before the record has them
# How an answer is wrapped and when it comes, not what it says.
_NOT_COMPARED = {"idempotency_key", "heatmap", "deadline_ms", "priority"}


@dataclass(frozen=True, slots=True)
class RepeatKey:
    """An idempotency key in its scope, and the SHA-256 of the request that it stands for."""

    scoped: str
    fingerprint: str

    @classmethod
    def of(
        cls, query: ScoreQuery, *, caller: str | None, image_sha256: str, item: int | None = None
    ) -> "RepeatKey":
        """Scope a request's key by API key and camera; `item` numbers the images of a batch.

        `caller` is the API key's name, None where authentication is off. `query.model` names the
        model, so that the default one by its name is the same request.
        """
        suffix = "" if item is None else f"#{item}"  # no key of a request has a '#'
        scope = [caller, query.camera, f"{query.idempotency_key}{suffix}"]
        parameters = query.model_dump(mode="json", exclude=_NOT_COMPARED)
        request = json.dumps([image_sha256, parameters], sort_keys=True)
        return cls(
            json.dumps(scope, ensure_ascii=False), hashlib.sha256(request.encode()).hexdigest()
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to a request, and the request's fingerprint."""

    fingerprint: str
    answer: ScoreOut

    def to(self, key: RepeatKey) -> ScoreOut:
        """Return the answer to a repeat; raises `IdempotencyMismatch` for another request."""
        _compare(self.fingerprint, key)
        return self.answer


@dataclass(slots=True)
class _Underway:
    fingerprint: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answered: Answered | None = None  # stays None where the request failed


Lookup = Callable[[str], Awaitable[Answered | None]]


async def nothing_stored(scoped: str) -> Answered | None:
    """Look nothing up: there is no record."""
    return None


class Repeats:
    """Answers by idempotency key; on the event loop alone, so that nothing here needs a lock."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._answers: OrderedDict[str, Answered] = OrderedDict()
        self._underway: dict[str, _Underway] = {}

    async def once(
        self,
        key: RepeatKey,
        inspect: Callable[[], Awaitable[ScoreOut]],
        stored: Lookup = nothing_stored,
    ) -> ScoreOut:
        """Inspect, or return the answer if this request was answered before or is being answered.

        A repeat has no heatmap. Raises `IdempotencyMismatch`, or what `inspect` raises.
        """
        while (answer := self._answers.get(key.scoped)) is None:
            first = self._underway.get(key.scoped)
            if first is None:
                return await self._first(key, inspect, stored)
            _compare(first.fingerprint, key)
            await first.ended.wait()
            if first.answered is not None:
                return first.answered.to(key)
        return answer.to(key)

    async def _first(
        self, key: RepeatKey, inspect: Callable[[], Awaitable[ScoreOut]], stored: Lookup
    ) -> ScoreOut:
        """Hold the key while it is looked up and inspected; let go of it however that ends."""
        mine = self._underway[key.scoped] = _Underway(key.fingerprint)
        try:
            if (stored_answer := await stored(key.scoped)) is not None:
                return stored_answer.to(key)
            answer = await inspect()
            mine.answered = Answered(key.fingerprint, answer.model_copy(update={"heatmap": None}))
            self._remember(key.scoped, mine.answered)
            return answer
        finally:
            del self._underway[key.scoped]
            mine.ended.set()

    def _remember(self, scoped: str, answered: Answered) -> None:
        self._answers[scoped] = answered
        if len(self._answers) > self._remembered:
            self._answers.popitem(last=False)


def _compare(fingerprint: str, key: RepeatKey) -> None:
    if fingerprint != key.fingerprint:
        raise IdempotencyMismatch(
            "this idempotency_key was used for another image or other parameters; give each part a "
            "key of its own, and repeat a request as it was"
        )
