"""Cross-request batching in front of one worker thread.

Greedy: an idle worker starts at once with what is there; a busy one gathers what comes meanwhile.
Knows no torch, image or HTTP. Every submitted request ends: with its result, with an error, or
cancelled by its owner; a full queue is an immediate `QueueFull`, never a wait.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue holds as many requests as it may; come back in `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class BatcherClosed(Exception):
    """The batcher is shutting down and takes no more requests."""


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """Bounds of the batcher; a delay of 0 is greedy."""

    max_batch_size: int = 16
    max_queue_size: int = 64
    max_queue_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """A result and what it took: seconds in the queue, seconds of its batch, size of its batch."""

    result: Result
    queue_s: float
    inference_s: float
    batch_size: int


@dataclass(slots=True)
class _Item(Generic[Request, Result]):
    key: Hashable
    request: Request
    future: "Future[Outcome[Result]]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher(Generic[Request, Result]):
    """Gathers requests of one key into batches for `run`, which one thread calls.

    `run(key, requests)` returns one result for each request, in order. When it raises for a batch
    of several, each request is run alone, so that a bad one fails by itself.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[Request]], Sequence[Result]],
        config: BatchingConfig,
        *,
        on_batch: Callable[[Hashable, int], None] = lambda key, size: None,
    ) -> None:
        self._run = run
        self._config = config
        self._on_batch = on_batch
        self._queue: deque[_Item[Request, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._running: list[_Item[Request, Result]] = []
        self._item_seconds = 0.05  # running mean of seconds per request, for Retry-After
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests waiting now."""
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        """Whether requests are still being worked on."""
        return self._thread.is_alive() and not self._closed

    def submit(self, key: Hashable, request: Request) -> "Future[Outcome[Result]]":
        """Queue a request; raises `QueueFull` or `BatcherClosed` at once rather than wait."""
        with self._changed:
            if not self.is_alive:
                raise BatcherClosed("the service is shutting down")
            if len(self._queue) >= self._config.max_queue_size:
                raise QueueFull(max(0.1, len(self._queue) * self._item_seconds))
            item: _Item[Request, Result] = _Item(key, request)
            self._queue.append(item)
            self._changed.notify()
            return item.future

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more requests, finish those that wait, and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._fail_waiting(BatcherClosed("the service has shut down"))

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._running = batch
                self._process(batch)
        finally:  # reached on close, or when something no handler may catch ends the thread
            self._closed = True
            self._fail_waiting(BatcherClosed("the inference thread has stopped"))

    def _next_batch(self) -> list[_Item[Request, Result]]:
        """Wait for requests and take those that share the oldest one's key; empty when closed."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            self._wait_for_company()
            return self._take()

    def _wait_for_company(self) -> None:
        if not self._queue or not self._config.max_queue_delay_s:
            return
        until = self._queue[0].arrived + self._config.max_queue_delay_s
        while len(self._queue) < self._config.max_batch_size and not self._closed:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _take(self) -> list[_Item[Request, Result]]:
        batch: list[_Item[Request, Result]] = []
        others: deque[_Item[Request, Result]] = deque()
        while self._queue and len(batch) < self._config.max_batch_size:
            item = self._queue.popleft()
            same = not batch or item.key == batch[0].key
            (batch if same else others).append(item)
        self._queue.extendleft(reversed(others))
        return batch

    def _process(self, batch: list[_Item[Request, Result]]) -> None:
        live = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if not live:
            return
        started = time.monotonic()
        self._on_batch(live[0].key, len(live))
        try:
            results = self._run_checked(live)
        except Exception as error:  # noqa: BLE001 - the one broad except: it fails these futures
            self._isolate(live, error)
            return
        finally:
            each = (time.monotonic() - started) / len(live)
            self._item_seconds += 0.2 * (each - self._item_seconds)
        self._resolve(live, results, started)

    def _run_checked(self, live: list[_Item[Request, Result]]) -> Sequence[Result]:
        results = self._run(live[0].key, [item.request for item in live])
        if len(results) != len(live):
            raise RuntimeError(f"{len(live)} requests gave {len(results)} results")
        return results

    def _isolate(self, live: list[_Item[Request, Result]], error: Exception) -> None:
        """Fail a lone request; run the members of a failed batch one by one."""
        if len(live) == 1:
            _log.error("inference failed", exc_info=error)
            live[0].future.set_exception(error)
            return
        for item in live:
            started = time.monotonic()
            try:
                results = self._run_checked([item])
            except Exception as alone:  # noqa: BLE001 - as above, for one member
                self._isolate([item], alone)
            else:
                self._resolve([item], results, started)

    def _resolve(
        self, live: list[_Item[Request, Result]], results: Sequence[Result], started: float
    ) -> None:
        taken = time.monotonic() - started
        for item, result in zip(live, results, strict=True):
            outcome = Outcome(result, started - item.arrived, taken, len(live))
            item.future.set_result(outcome)

    def _fail_waiting(self, error: Exception) -> None:
        with self._changed:
            waiting, self._queue = list(self._queue), deque()
        for item in self._running + waiting:
            if not item.future.done() and (
                item.future.running() or item.future.set_running_or_notify_cancel()
            ):
                item.future.set_exception(error)
