"""Threads that may be lost to a task that hangs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.workers import WorkerPool, WorkTooSlow


@contextmanager
def pool(workers: int = 2, limit_s: float = 0.05) -> Iterator[WorkerPool]:
    made = WorkerPool(workers, "test", limit_s=limit_s)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


def until(condition: Callable[[], bool], within_s: float = 10) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Hang:
    """Tasks that run until they are let go."""

    def __init__(self, made: WorkerPool, tasks: int) -> None:
        self.gate = threading.Event()
        self.running = threading.Semaphore(0)
        self.futures: list[Future[str]] = [made.submit(self._run) for _ in range(tasks)]

    def _run(self) -> str:
        self.running.release()
        self.gate.wait(20)
        return "late"


def test_results_and_errors_come_back_as_from_any_pool() -> None:
    with pool(limit_s=60) as made:
        assert list(made.map(lambda n: n * n, range(50))) == [n * n for n in range(50)]
        with pytest.raises(ZeroDivisionError):
            made.submit(lambda: 1 / 0).result(5)
        assert made.submit(int, "7").result(5) == 7


def test_a_task_that_hangs_is_given_up_and_its_thread_replaced() -> None:
    with pool() as made:
        hang = Hang(made, 2)
        for future in hang.futures:
            with pytest.raises(WorkTooSlow, match="longer than"):
                future.result(10)
        assert made.submit(lambda: "next").result(10) == "next"
        assert not made.is_stuck
        hang.gate.set()
        assert made.submit(lambda: "after").result(10) == "after"


def test_what_a_lost_thread_brings_in_the_end_is_thrown_away_and_it_ends() -> None:
    with pool(1) as made:
        hang = Hang(made, 1)
        with pytest.raises(WorkTooSlow):
            hang.futures[0].result(10)
        assert until(lambda: len(made._threads) == 2)
        hang.gate.set()
        assert until(lambda: len(made._threads) == 1)
        assert isinstance(hang.futures[0].exception(), WorkTooSlow)
        again = Hang(made, 1)  # the place of the lost one is free again
        with pytest.raises(WorkTooSlow):
            again.futures[0].result(10)
        assert made.submit(lambda: 1).result(10) == 1
        again.gate.set()


def test_lost_threads_are_replaced_only_so_often_and_then_the_pool_is_stuck() -> None:
    with pool(2) as made:
        hang = Hang(made, 6)
        assert until(lambda: made.is_stuck)
        assert len(made._threads) == 4
        waiting = made.submit(lambda: "never")
        waiting.cancel()
        hang.gate.set()
        assert until(lambda: not made.is_stuck)
        assert made.submit(lambda: "again").result(10) == "again"


def test_shutting_down_waits_for_what_runs_and_not_for_what_hangs() -> None:
    made = WorkerPool(1, "test", limit_s=0.05)
    hang = Hang(made, 1)
    with pytest.raises(WorkTooSlow):
        hang.futures[0].result(10)
    started = time.monotonic()
    made.shutdown()
    assert time.monotonic() - started < 2
    assert not made.is_done
    with pytest.raises(RuntimeError):
        made.submit(int)
    hang.gate.set()
    assert until(lambda: made.is_done)
    whole = WorkerPool(1, "test", limit_s=60)
    slow = whole.submit(lambda: time.sleep(0.1) or "whole")
    whole.shutdown()
    assert slow.result(0) == "whole"


def test_no_thread_keeps_the_process() -> None:
    with pool() as made:
        assert all(thread.daemon for thread in made._threads)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["fine", "raises", "hangs", "cancelled"]), max_size=20))
def test_every_task_ends_and_the_pool_is_whole_again(kinds: list[str]) -> None:
    gate = threading.Event()

    def work(kind: str) -> str:
        if kind == "raises":
            raise KeyError(kind)
        if kind == "hangs":
            gate.wait(20)
        return kind

    with pool(2, limit_s=0.02) as made:
        futures = [made.submit(work, kind) for kind in kinds]
        for kind, future in zip(kinds, futures, strict=True):
            if kind == "cancelled":
                future.cancel()
        time.sleep(0.05)
        gate.set()
        for kind, future in zip(kinds, futures, strict=True):
            try:
                assert future.result(10) == kind
            except (WorkTooSlow, KeyError, CancelledError):
                assert kind != "fine" or isinstance(future.exception(), WorkTooSlow)
        assert until(lambda: len(made._threads) == 2)
        assert until(lambda: made._spares == 0 and not made._running)


def test_an_iterator_that_ends_too_soon_is_an_error_and_no_endless_wait() -> None:
    with pool(1, limit_s=60) as made:
        broken = made.submit(lambda: next(iter(())))
        with pytest.raises(RuntimeError, match="StopIteration"):
            broken.result(5)
        assert made.submit(lambda: 7).result(5) == 7
