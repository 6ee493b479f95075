"""What waits for a person to look at it, and who looks at what: leases in memory.

A lease ends by itself after a minute, so that nothing is lost with a tab that was closed or a
service that was started anew. Services that share a database do not know of each other's.
"""

import hashlib
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from record.filters import NOTHING_SAID, Filter
from record.result import JsonObject, Result
from record.store import Store
from service.errors import Claimed, ReviewerMissing, TooManyClaims
from service.results.reader import ResultReader

LEASE_S = 60.0
_CLAIMS = 2000
_CLAIMS_OF_REVIEWER = 100
_WAITING = 1000  # counted at the most
_SAMPLED_FROM = 1000  # newest kept good parts of which nothing was said
_REACHES_BACK = timedelta(days=30)
_KINDS = 9  # as many as there are digits to answer with
_PASSED_OVER = 1000  # parts that reviewers released, and are not shown to them at once again


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Who looks: the API key's name, and the tab's id; either may be missing."""

    key: str | None
    tab: str | None

    @property
    def name(self) -> str | None:
        """What others see."""
        return self.key or self.tab


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease of one result; `until` is the moment as a clock on the wall has it."""

    result_id: str
    holder: Reviewer
    until: datetime
    ends: float


@dataclass(frozen=True, slots=True)
class Queue:
    """What to look at next: what waits, the oldest first, then `sampled` good parts at random.

    `waiting` counts what nobody looks at, a thousand at the most. `kinds` are the names that people
    gave defects lately, the most frequent first.
    """

    results: list[Result]
    waiting: int
    sampled: int
    kinds: list[str]


class ReviewQueue:
    """Hands out parts; on the event loop alone, so that nothing here needs a lock.

    `publish` is told of each claim and of its end before its time.
    """

    def __init__(
        self,
        reader: ResultReader,
        publish: Callable[[str, JsonObject], None] = lambda _name, _data: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._publish = publish
        self._clock = clock
        self._claims: OrderedDict[str, Claim] = OrderedDict()  # the first to end is the first
        self._passed_over: OrderedDict[tuple[Reviewer, str], None] = OrderedDict()
        self._salt = secrets.token_hex(16)

    async def queue(self, reviewer: Reviewer, filter_: Filter, limit: int) -> Queue:
        """Say what a reviewer should look at; what others have claimed is left out."""
        recent = replace(filter_, feedback=NOTHING_SAID, since=datetime.now(UTC) - _REACHES_BACK)
        doubtful = replace(recent, verdict=("WARN", "NG"))
        count = _WAITING + len(self._claims)
        ids = await self._reader.ask(lambda store: store.ids(doubtful, count, "oldest"))
        waiting = self._free(ids, reviewer)[:_WAITING]
        shown = self._shown_last(waiting, reviewer)[:limit]
        sample = await self._sample(reviewer, recent, limit - len(shown))

        def read(store: Store) -> tuple[list[Result], list[str]]:
            return store.by_ids([*shown, *sample]), store.defect_names(_KINDS)

        results, kinds = await self._reader.ask(read)
        return Queue(results, len(waiting), len(sample), kinds)

    async def _sample(self, reviewer: Reviewer, filter_: Filter, count: int) -> list[str]:
        """Draw good parts that are kept: every one as likely, for one reviewer in one order.

        Asked again, a reviewer sees the same ones until they are judged or released.
        """
        if count <= 0:
            return []
        good = replace(filter_, verdict="OK", kept=True)
        ids = await self._reader.ask(lambda store: store.ids(good, _SAMPLED_FROM))
        drawn = sorted(self._free(ids, reviewer), key=lambda item: self._rank(item, reviewer))
        return self._shown_last(drawn, reviewer)[:count]

    def _rank(self, result_id: str, reviewer: Reviewer) -> bytes:
        text = f"{self._salt}/{reviewer.name}/{reviewer.tab}/{result_id}"
        return hashlib.sha256(text.encode()).digest()

    def _free(self, ids: list[str], reviewer: Reviewer) -> list[str]:
        self._tidy()
        return [
            result_id
            for result_id in ids
            if (claim := self._claims.get(result_id)) is None or claim.holder == reviewer
        ]

    def _shown_last(self, ids: list[str], reviewer: Reviewer) -> list[str]:
        """Put what this reviewer released behind everything else."""
        return sorted(ids, key=lambda result_id: (reviewer, result_id) in self._passed_over)

    async def claim(self, result_id: str, reviewer: Reviewer) -> Claim:
        """Lease a result for a minute, or renew the lease.

        Raises `ResultUnknown`, `Claimed`, `ReviewerMissing` or `TooManyClaims`.
        """
        _check_named(reviewer)
        await self._reader.find(result_id)
        self.check(result_id, reviewer)  # nothing is awaited from here on
        self._claims.pop(result_id, None)
        self._make_room(reviewer)
        until = datetime.now(UTC) + timedelta(seconds=LEASE_S)
        claim = Claim(result_id, reviewer, until, self._clock() + LEASE_S)
        self._claims[result_id] = claim
        self._tell(result_id, claim)
        return claim

    def release(self, result_id: str, reviewer: Reviewer) -> None:
        """End a lease of this reviewer's; nothing happens where there is none. Raises `Claimed`."""
        _check_named(reviewer)
        self.check(result_id, reviewer)
        if self._end(result_id):
            self._passed_over[reviewer, result_id] = None
            if len(self._passed_over) > _PASSED_OVER:
                self._passed_over.popitem(last=False)

    def check(self, result_id: str, reviewer: Reviewer) -> None:
        """Raise `Claimed` where somebody else looks at a result."""
        self._tidy()
        claim = self._claims.get(result_id)
        if claim is not None and claim.holder != reviewer:
            seconds = max(1, math.ceil(claim.ends - self._clock()))
            raise Claimed(
                f"{claim.holder.name} looks at result {result_id!r}, for {seconds} s yet unless "
                "the claim is renewed"
            )

    def judged(self, result_id: str) -> None:
        """End the lease of a result that somebody spoke of."""
        self._end(result_id)

    def _end(self, result_id: str) -> bool:
        if self._claims.pop(result_id, None) is None:
            return False
        self._tell(result_id, None)
        return True

    def _make_room(self, reviewer: Reviewer) -> None:
        """A reviewer who claims too much loses the first; of many reviewers the last waits."""
        mine = [claim for claim in self._claims.values() if claim.holder == reviewer]
        if len(mine) >= _CLAIMS_OF_REVIEWER:
            self._end(mine[0].result_id)
        if len(self._claims) >= _CLAIMS:
            first = next(iter(self._claims.values()))
            raise TooManyClaims(
                f"{_CLAIMS} results are claimed; wait for one to end", first.ends - self._clock()
            )

    def _tidy(self) -> None:
        now = self._clock()
        while self._claims and next(iter(self._claims.values())).ends <= now:
            self._claims.popitem(last=False)

    def _tell(self, result_id: str, claim: Claim | None) -> None:
        by = None if claim is None else claim.holder.name
        until = None if claim is None else claim.until.isoformat()
        self._publish("claim", {"result_id": result_id, "by": by, "until": until})


def _check_named(reviewer: Reviewer) -> None:
    if reviewer.name is None:
        raise ReviewerMissing(
            "where authentication is off, whoever claims names itself: send a random id as "
            "X-Maskline-Reviewer"
        )
