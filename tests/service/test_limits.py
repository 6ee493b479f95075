from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits import Overload


def offer(overload: Overload, count: int) -> None:
    for _ in range(count):
        overload.offered()


def run(steps: Iterable[tuple[int, int]]) -> Overload:
    """Offer and do requests in turn: so many, so many."""
    overload = Overload()
    for offered, done in steps:
        offer(overload, offered)
        overload.done(done)
    return overload


def test_more_offered_than_done_for_long_is_overload_until_nothing_waits() -> None:
    overload = run([(6, 4)] * 11)
    assert not overload.is_on  # 44 done: not for long yet
    offer(overload, 6)
    overload.done(4)
    assert overload.is_on
    offer(overload, 4)
    overload.done(32)
    assert overload.is_on  # the queue is still there
    overload.over()
    assert not overload.is_on
    offer(overload, 90)
    overload.done(48)
    assert not overload.is_on  # it begins anew


def test_as_much_as_is_done_is_none() -> None:
    assert not run([(4, 4)] * 100).is_on
    assert not run([(9, 8)] * 100).is_on


def test_a_burst_is_none_however_large() -> None:
    assert not run([(200, 4), *[(4, 4)] * 40]).is_on
    assert not run([(64, 8), *[(0, 8)] * 7] * 5).is_on


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 64), st.lists(st.integers(1, 8), min_size=20, max_size=200))
def test_clients_that_wait_for_their_answer_are_none(clients: int, batches: list[int]) -> None:
    # Each batch's clients ask again while the next batch is computed.
    assert not run([(clients, 0), *((size, size) for size in batches)]).is_on
