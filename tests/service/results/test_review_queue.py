"""Who looks at what: leases, and the order of the queue."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from record.filters import Filter
from record.result import Feedback
from record.store import Store
from service.errors import Claimed, ResultUnknown, ReviewerMissing, TooManyClaims
from service.results.reader import ResultReader
from service.results.review_queue import Reviewer, ReviewQueue
from tests.record.test_store import numbers, result

ANNA, BERT = Reviewer("anna", "t1"), Reviewer(None, "t2")
NOW = datetime.now(UTC)


class Desk:
    """A queue over a store of its own, and a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'results.db'}"
        self.store = Store.open(url)
        self.reader = ResultReader(lambda: Store.open(url))
        self.now = 100.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.queue = self.opened()

    def opened(self) -> ReviewQueue:
        return ReviewQueue(
            self.reader, lambda name, data: self.events.append((name, data)), lambda: self.now
        )

    def add(self, first: int, count: int, **changes: Any) -> None:
        self.store.add(
            [
                result(n, **{"inspected_at": NOW - timedelta(seconds=1000 - n), **changes})
                for n in range(first, first + count)
            ]
        )

    def say(self, number: int, kind: str) -> None:
        entry = Feedback(result_id=name(number), created_at=NOW, kind=kind)
        assert self.store.add_feedback(entry)

    def next(self, who: Reviewer, limit: int = 20, filter_: Filter | None = None) -> list[int]:
        self.last = asyncio.run(self.queue.queue(who, filter_ or Filter(), limit))
        return numbers(self.last.results)

    def claim(self, number: int, who: Reviewer) -> Any:
        return asyncio.run(self.queue.claim(name(number), who))


def name(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.reader.close()
    desk.store.close()


def test_what_waits_comes_oldest_first_without_what_is_said_or_others_look_at(desk: Desk) -> None:
    desk.add(1, 3, verdict="NG")
    desk.add(4, 3, verdict="WARN", camera="top")
    desk.add(7, 1, verdict="NG", inspected_at=NOW - timedelta(days=31))
    desk.say(2, "false_alarm")
    desk.say(5, "confirmed_good")
    desk.say(5, "withdrawn")
    assert desk.next(ANNA) == [1, 3, 4, 5, 6]
    assert (desk.last.waiting, desk.last.sampled) == (5, 0)
    desk.claim(3, ANNA)
    assert desk.next(ANNA, 2) == [1, 3]
    assert desk.next(BERT, 2) == [1, 4]
    assert desk.last.waiting == 4
    assert desk.next(BERT, filter_=Filter(camera="top")) == [4, 5, 6]


def test_a_lease_keeps_others_away_until_it_ends(desk: Desk) -> None:
    desk.add(1, 1, verdict="NG")
    claim = desk.claim(1, ANNA)
    assert timedelta(0) < claim.until - datetime.now(UTC) <= timedelta(seconds=60)
    desk.now += 59
    with pytest.raises(Claimed, match="anna looks at"):
        desk.claim(1, BERT)
    with pytest.raises(Claimed):
        desk.queue.check(name(1), Reviewer("anna", "another tab"))
    desk.claim(1, ANNA)  # renews it
    desk.now += 59
    with pytest.raises(Claimed):
        desk.queue.check(name(1), Reviewer(None, None))
    with pytest.raises(Claimed):
        desk.queue.release(name(1), BERT)
    desk.now += 1
    desk.queue.check(name(1), BERT)
    desk.claim(1, BERT)
    desk.queue.judged(name(1))
    desk.claim(1, ANNA)
    told = [(data["by"], data["until"] is not None) for _, data in desk.events]
    yes, no = True, False
    assert told == [("anna", yes), ("anna", yes), ("t2", yes), (None, no), ("anna", yes)]
    assert {event for event, _ in desk.events} == {"claim"}


def test_only_what_is_there_is_claimed_by_whoever_says_who_it_is(desk: Desk) -> None:
    desk.add(1, 1)
    with pytest.raises(ResultUnknown):
        desk.claim(2, ANNA)
    for claim in (desk.claim, lambda number, who: desk.queue.release(name(number), who)):
        with pytest.raises(ReviewerMissing):
            claim(1, Reviewer(None, None))


def test_leases_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.results.review_queue._CLAIMS", 4)
    monkeypatch.setattr("service.results.review_queue._CLAIMS_OF_REVIEWER", 3)
    desk.add(1, 9)
    for number in (1, 2, 3, 4):
        desk.claim(number, ANNA)
    desk.claim(1, BERT)  # Anna's first gave way to her fourth
    with pytest.raises(TooManyClaims) as caught:
        desk.claim(5, BERT)
    assert caught.value.retry_after_s == 60
    desk.claim(1, BERT)  # a lease is renewed however many there are
    desk.now += 60
    desk.claim(5, BERT)


def test_what_was_released_comes_last_for_whoever_released_it(desk: Desk) -> None:
    desk.add(1, 3, verdict="NG")
    desk.claim(1, ANNA)
    desk.queue.release(name(1), ANNA)
    desk.queue.release(name(2), ANNA)  # was not claimed: nothing happens
    assert desk.next(ANNA) == [2, 3, 1]
    assert desk.next(BERT) == [1, 2, 3]


def test_good_parts_are_drawn_without_favour_and_stay_until_they_are_judged(desk: Desk) -> None:
    desk.add(1, 40, verdict="OK", kept=True)
    desk.add(41, 20, verdict="OK", kept=False)
    desk.add(61, 1, verdict="NG")
    desk.say(40, "confirmed_good")
    first = desk.next(ANNA, 6)
    assert (first[0], desk.last.waiting, desk.last.sampled) == (61, 1, 5)
    assert desk.next(ANNA, 6) == first
    desk.say(first[1], "confirmed_good")
    assert desk.next(ANNA, 5) == [61, *first[2:]]
    desk.claim(first[2], ANNA)
    desk.queue.release(name(first[2]), ANNA)
    assert desk.next(ANNA, 4) == [61, *first[3:]]
    drawn: Counter[int] = Counter()
    for tab in range(300):
        drawn.update(desk.next(Reviewer(None, str(tab)), 6)[1:])
    eligible = set(range(1, 40)) - {first[1]}
    assert set(drawn) == eligible
    # 300 draws of 5 among 38: 39.5 each on average, 5.9 the deviation.
    assert 15 < min(drawn.values()) <= max(drawn.values()) < 65


def test_the_names_that_people_gave_come_with_the_queue(desk: Desk) -> None:
    desk.add(0, 4, verdict="NG")
    for number, defect in enumerate(["pore", "scratch", "scratch", None]):
        entry = Feedback(
            result_id=name(number), created_at=NOW, kind="confirmed_defect", defect=defect
        )
        assert desk.store.add_feedback(entry)
    desk.next(ANNA)
    assert desk.last.kinds == ["scratch", "pore"]
