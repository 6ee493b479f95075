import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.batching import Batcher, InferenceCrashed, TooMuchAtOnce
from service.inference.limits import Room
from service.inference.queue import (
    BatcherClosed,
    BatchingConfig,
    DeadlineMissed,
    Events,
    Outcome,
    Priority,
    QueueFull,
)
from tests.conftest import is_freed


class Recorder:
    """A `run` that doubles numbers, remembers its batches and can be held up."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, key: Hashable, requests: Sequence[int]) -> list[int]:
        self.batches.append((key, list(requests)))
        self.gate.wait(10)
        if any(r < 0 for r in requests):
            raise ValueError("a negative request")
        return [2 * r for r in requests]


def results(futures: Sequence["Future[Outcome[int]]"]) -> list[int]:
    return [future.result(10).result for future in futures]


def ask(
    batcher: "Batcher[int, int]",
    key: Hashable,
    request: int,
    *,
    cost: int = 1,
    priority: Priority = Priority.NORMAL,
    deadline: float | None = None,
    caller: str = "",
) -> "Future[Outcome[int]]":
    """Queue a request at once."""
    with batcher.queue.reserve(priority, cost=cost, deadline=deadline, caller=caller) as place:
        return batcher.queue.put(key, request, place)


def busy(batcher: "Batcher[int, int]", run: Recorder) -> "Future[Outcome[int]]":
    """Occupy the worker until the gate opens."""
    run.gate.clear()
    first = ask(batcher, "a", 0)
    while not run.batches:
        time.sleep(0.001)
    return first


class Version:
    """A key that is large, as a model is, and has to go once nobody needs it."""


def test_a_lane_that_waits_holds_nothing_of_its_last_batch() -> None:
    batcher = Batcher[int, int](lambda _, numbers: list(numbers), BatchingConfig(lanes=2))
    version = Version()
    gone = weakref.ref(version)
    assert results([ask(batcher, version, i) for i in range(4)]) == [0, 1, 2, 3]
    del version
    assert is_freed(gone)  # a result is set a moment before its batch ends
    batcher.close()


def test_an_idle_worker_starts_at_once_and_a_busy_one_gathers() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_cost=8))
    first = busy(batcher, run)
    rest = [ask(batcher, "a", i) for i in range(1, 6)]
    run.gate.set()
    assert results([first, *rest]) == [0, 2, 4, 6, 8, 10]
    assert run.batches == [("a", [0]), ("a", [1, 2, 3, 4, 5])]
    batcher.close()


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


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 50)), max_size=40),
    st.integers(1, 7),
    st.integers(1, 3),
)
def test_every_request_ends_with_its_own_result_or_error(
    requests: list[tuple[str, int]], size: int, lanes: int
) -> None:
    batcher = Batcher(Recorder(), BatchingConfig(lanes, size, max_queue_size=100))
    futures = [ask(batcher, key, value) for key, value in requests]
    assert not wait(futures, timeout=10).not_done
    for (_, value), future in zip(requests, futures, strict=True):
        if value < 0:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result().result == 2 * value
    batcher.close()


def test_a_bad_request_does_not_harm_its_batch_mates() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    mates = [ask(batcher, "a", value) for value in (1, -1, 2)]
    run.gate.set()
    assert first.result(10).result == 0
    assert mates[0].result(10).result == 2
    assert isinstance(mates[1].exception(10), ValueError)
    assert mates[2].result(10).result == 4
    assert batcher.is_alive
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


def test_closing_finishes_what_waits_and_refuses_more() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    waiting = ask(batcher, "a", 4)
    run.gate.set()
    batcher.close()
    assert results([first, waiting]) == [0, 8]
    assert not batcher.is_alive
    with pytest.raises(BatcherClosed):
        ask(batcher, "a", 1)


def test_outcomes_tell_how_long_and_with_how_many() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    mates = [ask(batcher, "a", i) for i in (1, 2)]
    time.sleep(0.05)
    run.gate.set()
    assert first.result(10).batch_size == 1
    outcome = mates[0].result(10)
    assert outcome.batch_size == 2
    assert outcome.queue_s >= 0.04
    assert outcome.inference_s >= 0
    batcher.close()


def test_a_wrong_number_of_results_is_an_error_not_a_mix_up() -> None:
    def short(key: Hashable, requests: Sequence[int]) -> list[int]:
        return []

    batcher: Batcher[int, int] = Batcher(short, BatchingConfig())
    assert isinstance(ask(batcher, "a", 1).exception(10), RuntimeError)
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


def test_a_queue_that_was_full_is_short_until_nobody_was_refused_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("service.inference.limits.time.monotonic", lambda: now)
    room = Room(64)
    assert room.has_room(63)
    assert not room.has_room(64)
    assert room.has_room(15)
    now += 4
    assert not room.has_room(16)  # which counts as well
    now += 4.9
    assert not room.has_room(30)
    now += 5.1
    assert room.has_room(63)
    assert not Room(4).has_room(4)
    assert Room(4).has_room(3)


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


def test_a_batch_too_large_for_the_device_is_run_in_parts_and_the_limit_recovers() -> None:
    batches: list[int] = []
    limits: list[int] = []
    capacity = 3

    def run(key: Hashable, requests: Sequence[int]) -> list[int]:
        batches.append(len(requests))
        if len(requests) > capacity:
            raise TooMuchAtOnce("out of memory")
        return [2 * r for r in requests]

    started, gate = threading.Event(), threading.Event()

    def gated(key: Hashable, requests: Sequence[int]) -> list[int]:
        started.set()
        gate.wait(10)
        return run(key, requests)

    batcher = Batcher(gated, BatchingConfig(max_batch_cost=8), events=Events(limit=limits.append))
    first = ask(batcher, "a", 0)
    assert started.wait(10)
    rest = [ask(batcher, "a", i) for i in range(1, 9)]
    gate.set()
    assert results([first, *rest]) == [2 * i for i in range(9)]
    assert batches == [1, 8, 4, 2, 2, 2, 2]
    assert limits[:2] == [4, 2]
    capacity = 100
    for _ in range(700):
        results([ask(batcher, "a", 1, cost=8)])
    assert limits[-1] == 8  # it came back, step by step
    assert limits[2:] == sorted(limits[2:])
    batcher.close()


def test_a_request_that_never_fits_fails_alone() -> None:
    def run(key: Hashable, requests: Sequence[int]) -> list[int]:
        if 13 in requests:
            raise TooMuchAtOnce("out of memory")
        return [2 * r for r in requests]

    batcher = Batcher(run, BatchingConfig())
    good, bad = ask(batcher, "a", 1), ask(batcher, "a", 13)
    assert isinstance(bad.exception(10), TooMuchAtOnce)
    assert good.result(10).result == 2
    batcher.close()


def fatal(key: Hashable, requests: Sequence[int]) -> list[int]:
    if requests[0] == 666:
        raise SystemExit
    return [2 * r for r in requests]


def test_inference_that_breaks_off_fails_its_batch_at_once_and_goes_on() -> None:
    batcher = Batcher(fatal, BatchingConfig())
    assert isinstance(ask(batcher, "a", 666).exception(10), InferenceCrashed)
    assert ask(batcher, "a", 4).result(10).result == 8
    assert batcher.is_alive
    batcher.close()


def test_lanes_compute_at_once_and_share_what_waits() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(lanes=2))
    first = busy(batcher, run)
    second = ask(batcher, "a", 1)
    while len(run.batches) < 2:  # the other lane takes it although the first is held up
        time.sleep(0.001)
    rest = [ask(batcher, "a", i) for i in range(2, 9)]
    run.gate.set()
    assert results([first, second, *rest]) == [2 * i for i in range(9)]
    assert run.batches[:3] == [("a", [0]), ("a", [1]), ("a", [2, 3, 4, 5])]
    batcher.close()


def test_a_lane_that_hangs_is_seen_while_the_other_works() -> None:
    gate = threading.Event()

    def run(key: Hashable, requests: Sequence[int]) -> list[int]:
        if requests[0] == 0:
            gate.wait(10)
        return [2 * r for r in requests]

    batcher = Batcher(run, BatchingConfig(lanes=2))
    hanging = ask(batcher, "a", 0)
    while not batcher.busy_s:
        time.sleep(0.001)
    for i in range(1, 6):
        assert ask(batcher, "a", i).result(10).result == 2 * i
    time.sleep(0.02)
    assert batcher.busy_s >= 0.02
    gate.set()
    assert hanging.result(10).result == 0
    batcher.close()
    assert batcher.busy_s == 0


def kinds_of_breaking_off(lanes: int) -> list[type]:
    """Break inference off with six requests; return how each ends. The batcher is dead then."""
    gate = threading.Event()

    def gated(key: Hashable, requests: Sequence[int]) -> list[int]:
        gate.wait(10)
        return fatal(key, requests)

    batcher = Batcher(gated, BatchingConfig(lanes, max_batch_cost=1))
    futures = [ask(batcher, "a", 666) for _ in range(6)]
    gate.set()
    kinds = [type(future.exception(10)) for future in futures]
    assert not batcher.is_alive
    with pytest.raises(BatcherClosed):
        ask(batcher, "a", 1)
    batcher.close()
    return kinds


def test_inference_that_keeps_breaking_off_leaves_no_request_waiting() -> None:
    assert kinds_of_breaking_off(lanes=1) == [InferenceCrashed] * 3 + [BatcherClosed] * 3


def test_lanes_that_keep_breaking_off_leave_no_request_waiting() -> None:
    kinds = kinds_of_breaking_off(lanes=2)
    crashed = kinds.count(InferenceCrashed)
    assert crashed in (3, 4)  # the other lane may have had one in hand
    assert kinds.count(BatcherClosed) == 6 - crashed


def test_a_batch_that_hangs_is_seen() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    assert batcher.busy_s == 0
    first = busy(batcher, run)
    time.sleep(0.02)
    assert batcher.busy_s >= 0.02
    run.gate.set()
    results([first])
    batcher.close()
    assert batcher.busy_s == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-2, 20), st.integers(1, 5), st.sampled_from(Priority), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 3),
)
def test_whatever_is_asked_every_request_ends(
    requests: list[tuple[int, int, Priority, bool]], lanes: int
) -> None:
    def run(key: Hashable, values: Sequence[int]) -> list[int]:
        if len(values) > 3:
            raise TooMuchAtOnce("out of memory")
        if any(value < 0 for value in values):
            raise ValueError("a negative request")
        return [2 * value for value in values]

    batcher = Batcher(run, BatchingConfig(lanes, max_batch_cost=9, max_queue_size=100))
    futures = []
    for value, cost, priority, leaves in requests:
        futures.append(ask(batcher, "a", value, cost=cost, priority=priority))
        if leaves:
            futures[-1].cancel()
    assert not wait(futures, timeout=10).not_done
    for (value, *_), future in zip(requests, futures, strict=True):
        if future.cancelled():
            continue
        if value < 0:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result().result == 2 * value
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
