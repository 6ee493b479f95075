import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import Batcher, BatcherClosed, BatchingConfig, Outcome, QueueFull


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


def busy(batcher: "Batcher[int, int]", run: Recorder) -> "Future[Outcome[int]]":
    """Occupy the worker until the gate opens."""
    run.gate.clear()
    first = batcher.submit("a", 0)
    while not run.batches:
        time.sleep(0.001)
    return first


def test_an_idle_worker_starts_at_once_and_a_busy_one_gathers() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_size=8))
    first = busy(batcher, run)
    rest = [batcher.submit("a", i) for i in range(1, 6)]
    run.gate.set()
    assert results([first, *rest]) == [0, 2, 4, 6, 8, 10]
    assert run.batches == [("a", [0]), ("a", [1, 2, 3, 4, 5])]
    batcher.close()


def test_batches_hold_one_key_and_no_more_than_the_limit() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_size=3))
    first = busy(batcher, run)
    keys = ["a", "b", "a", "a", "b", "a"]
    rest = [batcher.submit(key, i + 1) for i, key in enumerate(keys)]
    run.gate.set()
    assert results([first, *rest]) == [0, 2, 4, 6, 8, 10, 12]
    assert run.batches[1:] == [("a", [1, 3, 4]), ("b", [2, 5]), ("a", [6])]
    batcher.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 50)), max_size=40),
    st.integers(1, 7),
)
def test_every_request_ends_with_its_own_result_or_error(
    requests: list[tuple[str, int]], size: int
) -> None:
    batcher = Batcher(Recorder(), BatchingConfig(max_batch_size=size, max_queue_size=100))
    futures = [batcher.submit(key, value) for key, value in requests]
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
    mates = [batcher.submit("a", value) for value in (1, -1, 2)]
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
    waiting = [batcher.submit("a", 1), batcher.submit("a", 2)]
    assert batcher.depth == 2
    with pytest.raises(QueueFull) as caught:
        batcher.submit("a", 3)
    assert caught.value.retry_after_s > 0
    run.gate.set()
    assert results([first, *waiting]) == [0, 2, 4]
    batcher.close()


def test_a_cancelled_request_is_never_run() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    gone, stays = batcher.submit("a", 7), batcher.submit("a", 8)
    assert gone.cancel()
    run.gate.set()
    assert results([first, stays]) == [0, 16]
    assert [7] not in [batch for _, batch in run.batches]
    assert all(7 not in batch for _, batch in run.batches)
    batcher.close()


def test_a_delay_waits_for_company_but_not_for_ever() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig(max_batch_size=2, max_queue_delay_s=0.2))
    started = time.monotonic()
    assert batcher.submit("a", 1).result(10).result == 2
    assert time.monotonic() - started >= 0.15
    pair = [batcher.submit("a", 2), batcher.submit("a", 3)]
    assert results(pair) == [4, 6]
    assert run.batches[-1] == ("a", [2, 3])
    batcher.close()


def test_closing_finishes_what_waits_and_refuses_more() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    waiting = batcher.submit("a", 4)
    run.gate.set()
    batcher.close()
    assert results([first, waiting]) == [0, 8]
    assert not batcher.is_alive
    with pytest.raises(BatcherClosed):
        batcher.submit("a", 1)


def test_outcomes_tell_how_long_and_with_how_many() -> None:
    run = Recorder()
    batcher = Batcher(run, BatchingConfig())
    first = busy(batcher, run)
    mates = [batcher.submit("a", i) for i in (1, 2)]
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
    assert isinstance(batcher.submit("a", 1).exception(10), RuntimeError)
    batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dying_thread_leaves_no_request_waiting() -> None:
    started, gate = threading.Event(), threading.Event()

    def fatal(key: Hashable, requests: Sequence[int]) -> list[int]:
        started.set()
        gate.wait(10)
        raise SystemExit

    batcher: Batcher[int, int] = Batcher(fatal, BatchingConfig())
    running = batcher.submit("a", 1)
    assert started.wait(10)
    waiting = batcher.submit("a", 2)
    gate.set()
    assert isinstance(running.exception(10), BatcherClosed)
    assert isinstance(waiting.exception(10), BatcherClosed)
    assert not batcher.is_alive
    batcher.close()  # joins the thread, so that its end belongs to this test
