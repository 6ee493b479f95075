import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from concurrent.futures import wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.batching import Batcher, InferenceCrashed, TooMuchAtOnce
from service.inference.queue import BatcherClosed, BatchingConfig, Events, Priority
from tests.conftest import is_freed
from tests.service.inference.conftest import Recorder, ask, busy, results


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
    """Send six requests that each break inference off; say how each ends; the batcher is dead."""
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
