import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.batching import Batcher
from service.inference.queue import (
    BatcherClosed,
    BatchingConfig,
    DeadlineMissed,
    Events,
    Priority,
    QueueFull,
)
from tests.service.inference.conftest import Recorder, ask, busy, results


def test_batches_hold_one_key_and_no_more_than_the_limit() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=3))
    first = busy(batcher, run)
    keys = ["a", "b", "a", "a", "b", "a"]
    rest = [ask(batcher, key, i + 1) for i, key in enumerate(keys)]
    run.gate.set()
    assert results([first, *rest]) == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches[1:] == [("a", [1, 3, 4]), ("b", [2, 5]), ("a", [6])]
    batcher.close()


def test_a_full_queue_says_so_at_once_and_when_to_come_back() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_queue_size=2))
    first = busy(batcher, run)
    waiting = [ask(batcher, "a", 1), ask(batcher, "a", 2)]
    assert batcher.queue.depth == 2
    with pytest.raises(QueueFull) as caught:
        ask(batcher, "a", 3)
    assert caught.value.retry_after_s > 0
    run.gate.set()
    assert results([first, *waiting]) == [0, 2, 4]
    batcher.close()


def test_what_would_come_too_late_is_refused_at_once() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_queue_size=50, max_queue_wait_s=0.3))
    first = busy(batcher, run)
    each = batcher.queue.seconds_for(10)
    assert each == pytest.approx(0.1)  # not measured yet
    waiting = [ask(batcher, "a", i, cost=10) for i in (1, 2)]
    with pytest.raises(QueueFull, match=r"0\.2 s"):
        ask(batcher, "a", 3, cost=10, deadline=time.monotonic() + 0.1)
    waiting.append(ask(batcher, "a", 3, cost=10, deadline=time.monotonic() + 5))
    waiting.append(ask(batcher, "a", 4, cost=10))
    with pytest.raises(QueueFull):  # forty work items would have their turn before
        ask(batcher, "a", 5, cost=10)
    run.gate.set()
    assert results([first, *waiting]) == [0, 2, 4, 6, 8]
    batcher.close()


def test_a_cancelled_request_is_never_run() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    gone, stays = ask(batcher, "a", 7), ask(batcher, "a", 8)
    assert gone.cancel()
    run.gate.set()
    assert results([first, stays]) == [0, 16]
    assert [7] not in [batch for _, batch in run.batches]
    assert all(7 not in batch for _, batch in run.batches)
    batcher.close()


def test_a_delay_waits_for_company_but_not_for_ever() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=2, max_queue_delay_s=0.2))
    started = time.monotonic()
    assert ask(batcher, "a", 1).result(10).result == 2
    assert time.monotonic() - started >= 0.15
    pair = [ask(batcher, "a", 2), ask(batcher, "a", 3)]
    assert results(pair) == [4, 6]
    assert run.batches[-1] == ("a", [2, 3])
    batcher.close()


def test_a_batch_is_bounded_by_cost_and_a_request_over_it_runs_alone() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=10))
    first = busy(batcher, run)
    rest = [ask(batcher, "a", i, cost=cost) for i, cost in enumerate((4, 6, 1, 25, 3), 1)]
    run.gate.set()
    results([first, *rest])
    assert [batch for _, batch in run.batches[1:]] == [[1, 2], [3], [4], [5]]
    batcher.close()


def test_low_priority_waits_but_gets_every_fourth_turn() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=1))
    first = busy(batcher, run)
    low = [ask(batcher, "a", 100 + i, priority=Priority.LOW) for i in range(2)]
    normal = [ask(batcher, "a", i) for i in range(1, 9)]
    run.gate.set()
    results([first, *low, *normal])
    order = [batch[0] for _, batch in run.batches[1:]]
    assert order == [1, 2, 3, 100, 4, 5, 6, 101, 7, 8]
    batcher.close()


def test_normal_requests_ride_along_with_a_low_one_but_not_the_other_way() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=3))
    first = busy(batcher, run)
    low = [ask(batcher, "a", 100, priority=Priority.LOW)]
    normal = [ask(batcher, "a", i) for i in (1, 2)]
    run.gate.set()
    results([first, *low, *normal])
    assert [batch for _, batch in run.batches[1:]] == [[1, 2], [100]]
    batcher.close()


def test_each_priority_has_its_own_room() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_queue_size=2))
    first = busy(batcher, run)
    low = [ask(batcher, "a", i, priority=Priority.LOW) for i in (1, 2)]
    with pytest.raises(QueueFull):
        ask(batcher, "a", 3, priority=Priority.LOW)
    normal = ask(batcher, "a", 4)
    run.gate.set()
    assert results([first, *low, normal]) == [0, 2, 4, 8]
    batcher.close()


def test_only_the_normal_queue_gets_short() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_queue_size=20))
    first = busy(batcher, run)
    waiting = [ask(batcher, "a", 0) for _ in range(20)]
    low = [ask(batcher, "a", 0, priority=Priority.LOW) for _ in range(20)]
    for priority in Priority:
        with pytest.raises(QueueFull):
            ask(batcher, "a", 0, priority=priority)
    for one in (*waiting[16:], *low[16:]):
        one.cancel()
    batcher.queue._drop_lost(batcher.queue._queues[Priority.NORMAL])
    batcher.queue._drop_lost(batcher.queue._queues[Priority.LOW])
    with pytest.raises(QueueFull):
        ask(batcher, "a", 0)
    low.append(ask(batcher, "a", 0, priority=Priority.LOW))
    run.gate.set()
    results([first, *waiting[:16], *low[:16], low[-1]])
    batcher.close()


def test_a_place_is_room_in_the_queue_until_it_is_used_or_given_up() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_queue_size=1))
    first = busy(batcher, run)
    with batcher.queue.reserve(Priority.NORMAL) as place:
        with pytest.raises(QueueFull), batcher.queue.reserve(Priority.NORMAL):
            pass
        assert batcher.queue.full() is not None
        with batcher.queue.reserve(Priority.LOW):  # has room of its own
            pass
        kept = batcher.queue.put("a", 1, place)
        assert batcher.queue.full() is not None  # it waits
    kept.cancel()
    run.gate.set()
    assert first.result(10).result == 0
    with pytest.raises(ZeroDivisionError), batcher.queue.reserve(Priority.NORMAL):
        raise ZeroDivisionError
    assert batcher.queue.full() is None
    assert ask(batcher, "a", 4).result(10).result == 8
    batcher.close()
    with pytest.raises(BatcherClosed), batcher.queue.reserve(Priority.NORMAL):
        pass
    assert batcher.queue.full() is None


def test_work_past_its_deadline_is_dropped_before_it_is_run() -> None:
    run, dropped = Recorder(), []
    batcher = Batcher(run, BatchingConfig(), events=Events(dropped=dropped.append))
    first = busy(batcher, run)
    late = ask(batcher, "a", 7, deadline=time.monotonic() + 0.02)
    timely = ask(batcher, "a", 8, deadline=time.monotonic() + 60)
    gone = ask(batcher, "a", 9)
    gone.cancel()
    time.sleep(0.05)
    run.gate.set()
    assert isinstance(late.exception(10), DeadlineMissed)
    assert results([first, timely]) == [0, 16]
    assert run.batches[1:] == [("a", [8])]
    assert sorted(dropped) == ["deadline", "gone"]
    batcher.close()


def test_a_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    waiting = ask(batcher, "a", 1, deadline=time.monotonic() + 30)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    run.gate.set()
    outcome = waiting.result(10)
    assert outcome.result == 2
    assert 0 <= outcome.queue_s < 10
    assert first.result(10).result == 0
    batcher.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_callers_have_their_turns_in_rotation(callers: list[str]) -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=1))
    first = busy(batcher, run)
    asked = [
        ask(batcher, "k", 100 * "abc".index(caller) + number, caller=caller)
        for number, caller in enumerate(callers, start=1)
    ]
    run.gate.set()
    results([first, *asked])
    batcher.close()
    order = [requests[0] for _, requests in run.batches[1:]]
    for caller in range(3):  # each caller's own requests stay in their order
        own = [one for one in order if one // 100 == caller]
        assert own == sorted(own)
    served = {
        caller: [i for i, one in enumerate(order) if one // 100 == caller] for caller in range(3)
    }
    for one in served.values():  # the n-th request of one waits for n of each other at most
        for turn, index in enumerate(one):
            before = [sum(i < index for i in other) for other in served.values()]
            assert max(before) <= turn + 1


def test_who_asks_seldom_is_neither_refused_nor_late_because_of_a_flood() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=1, max_queue_size=20))
    first = busy(batcher, run)
    flood = [ask(batcher, "k", number, caller="flood") for number in range(1, 21)]
    with pytest.raises(QueueFull):
        ask(batcher, "k", 99, caller="flood")
    batcher.queue._cost_seconds = 1.0
    now = time.monotonic()
    line = ask(batcher, "k", 100, caller="line", deadline=now + 5)  # behind one, not behind twenty
    assert batcher.queue.full("flood") is not None
    assert batcher.queue.full("another line") is None
    run.gate.set()
    results([first, *flood, line])
    batcher.close()
    assert [requests[0] for _, requests in run.batches].index(100) <= 2
