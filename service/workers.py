"""Threads for work that may hang: a decoder that meets a file made to keep it busy, say.

A thread cannot be stopped from outside. So a task has a time; when that is over, whoever waits for
it gets `WorkTooSlow`, another thread takes the lost one's place, and what the lost one brings in
the end is thrown away. Places are bounded: as many lost threads may be replaced as there were at
first. None of the threads keeps the process from ending, as those of `ThreadPoolExecutor` do.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_MOST_WATCH_S = 0.5  # between two looks at what takes too long


class WorkTooSlow(Exception):
    """A task took longer than it may, and was given up."""


@dataclass(eq=False, slots=True)
class _Task:
    """`begun` is None until it runs; `replaced`: its thread ends with it."""

    call: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)
    begun: float | None = None
    given_up: bool = False
    replaced: bool = False


class WorkerPool(Executor):
    """Runs tasks in `workers` threads, giving up those that run longer than `limit_s`."""

    def __init__(self, workers: int, name: str, *, limit_s: float) -> None:
        self._workers, self._name, self._limit_s = workers, name, limit_s
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Task] = set()
        self._spares = 0
        self._closed = threading.Event()
        self._threads: set[threading.Thread] = set()
        for _ in range(workers):
            self._start()
        threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True).start()

    @property
    def is_stuck(self) -> bool:
        """Whether every thread is busy with a task that was given up: nothing would be done now."""
        return self.lost >= self._workers + self._spares

    @property
    def lost(self) -> int:
        """Threads that run a task which was given up."""
        with self._lock:
            return sum(task.given_up for task in self._running)

    @property
    def is_done(self) -> bool:
        """Whether all threads have ended."""
        with self._lock:
            return not self._threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Queue a task; raises `RuntimeError` once the pool is shut down."""
        if self._closed.is_set():
            raise RuntimeError("the pool is shut down")
        task = _Task(partial(fn, *args, **kwargs))
        self._queue.put(task)
        return task.future

    # The signature is that of concurrent.futures.
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001
        """Take no more tasks; wait for those that run, but for none past its limit."""
        self._closed.set()
        if cancel_futures:
            self._cancel_waiting()
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        until = time.monotonic() + self._limit_s
        while wait and time.monotonic() < until and not self._only_lost():
            time.sleep(0.005)

    def give_up_slow(self) -> None:
        """Answer for tasks that run too long, and replace their threads where that is allowed."""
        before = time.monotonic() - self._limit_s
        with self._lock:
            late = [
                task
                for task in self._running
                if not task.given_up and task.begun is not None and task.begun < before
            ]
            for task in late:
                task.given_up = True
                if self._spares < self._workers:
                    self._spares += 1
                    task.replaced = True
                    self._start()
        for task in late:
            task.future.set_exception(
                WorkTooSlow(
                    f"reading or drawing the image took longer than {self._limit_s:g} s; send it "
                    "smaller, or as a baseline JPEG or a PNG"
                )
            )

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(min(_MOST_WATCH_S, self._limit_s / 4)):
            self.give_up_slow()

    def _work(self) -> None:
        try:
            while (task := self._queue.get()) is not None and self._run(task):
                del task  # no result is held while nothing comes
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _run(self, task: _Task) -> bool:
        """Run one task; False where this thread was replaced meanwhile."""
        if not task.future.set_running_or_notify_cancel():
            return True
        with self._lock:
            task.begun = time.monotonic()
            self._running.add(task)
        result, error = None, None
        try:
            result = task.call()
        except BaseException as raised:  # noqa: BLE001 - the caller's, as in ThreadPoolExecutor
            error = _carried(raised)
        with self._lock:
            self._running.discard(task)
            self._spares -= task.replaced
        if task.given_up:
            return not task.replaced
        if error is None:
            task.future.set_result(result)
        else:
            task.future.set_exception(error)
        return True

    def _cancel_waiting(self) -> None:
        with suppress(Empty):
            while True:
                if (task := self._queue.get_nowait()) is not None:
                    task.future.cancel()

    def _only_lost(self) -> bool:
        with self._lock:
            return len(self._threads) <= sum(task.given_up for task in self._running)


def _carried(raised: BaseException) -> BaseException:
    """What a future can carry: it drops StopIteration, and whoever waits would wait for ever."""
    if not isinstance(raised, StopIteration):
        return raised
    error = RuntimeError("a task ended with StopIteration")
    error.__cause__ = raised
    return error
