"""Cross-request batching in front of one thread that computes, or of a few.

Greedy: an idle thread starts at once with what is there; while it is busy, requests gather in the
queue. Several threads (`lanes`) share evenly what waits. Knows no torch, image or HTTP.

Every submitted request ends: with its result, with an error, or cancelled by its owner.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic

from service.inference.limits import CrashGuard
from service.inference.queue import (
    BatcherClosed,
    BatchingConfig,
    Events,
    Item,
    Outcome,
    Request,
    RequestQueue,
    Result,
    fail,
    fill,
)

_log = logging.getLogger(__name__)


class InferenceCrashed(Exception):
    """What ran this request's batch broke off in a way that no request explains."""


class TooMuchAtOnce(Exception):
    """Raised by `run` when a batch does not fit the device: smaller ones are tried then."""


class Batcher(Generic[Request, Result]):
    """Gathers requests of one key into batches for `run`, which one thread per lane calls.

    `run(key, requests)` returns one result for each request, in order. When it raises for a batch
    of several, each request is run alone, so that a bad one fails by itself. When it raises
    `TooMuchAtOnce`, the same requests are run again in smaller batches. Requests come by `queue`.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[Request]], Sequence[Result]],
        config: BatchingConfig,
        *,
        events: Events | None = None,
    ) -> None:
        self._run = run
        self._events = events or Events()
        self._crashes = CrashGuard()
        self._busy_since: list[float | None] = [None] * config.lanes
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"inference-{lane}", daemon=True)
            for lane in range(config.lanes)
        ]
        self.queue: RequestQueue[Request, Result] = RequestQueue(
            config,
            self._events,
            is_served=lambda: all(thread.is_alive() for thread in self._threads),
        )
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still being worked on."""
        return self.queue.is_open

    @property
    def busy_s(self) -> float:
        """How long the oldest batch in hand has been running; 0 when idle."""
        since = min((began for began in self._busy_since if began is not None), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more requests, finish those that wait, and stop the threads."""
        until = time.monotonic() + timeout_s
        self.queue.stop_taking()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.queue.fail_waiting(BatcherClosed("the service has shut down"))

    def _work(self, lane: int) -> None:
        """Run batches until closed."""
        while self._work_once(lane):
            pass  # no batch is held here: while nothing comes, its model would not be freed

    def _work_once(self, lane: int) -> bool:
        """Wait for a batch and run it; False when closed."""
        batch = self.queue.take()
        if not batch:
            return False
        self._busy_since[lane] = time.monotonic()
        try:
            self._process(batch)
        except BaseException as fatal:  # noqa: BLE001 - a thread must not end while requests wait
            _log.critical("the inference thread broke off", exc_info=fatal)
            fail(batch, InferenceCrashed("inference broke off; send the image again"))
            if self._crashes.is_hopeless():
                _log.critical("it broke off too often; this process takes no more requests")
                self.queue.stop_taking()
                self.queue.fail_waiting(BatcherClosed("inference has stopped; restart the service"))
        finally:
            self._busy_since[lane] = None
        return True

    def _process(self, batch: list[Item[Request, Result]]) -> None:
        """Run what nobody gave up in the meantime."""
        live = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if live:
            self._compute(live)

    def _compute(self, live: list[Item[Request, Result]]) -> None:
        """Run a batch, or part of one that failed as a whole, until each request has ended."""
        cost = sum(item.cost for item in live)
        started = time.monotonic()
        try:
            results = self._run_checked(live)
        except TooMuchAtOnce as error:
            self._retry_smaller(live, cost, error)
        except Exception as error:  # noqa: BLE001 - the one broad except: it fails these futures
            self._isolate(live, error)
        else:
            self._resolve(live, results, started)
            self._learn(cost, time.monotonic() - started)

    def _learn(self, cost: int, seconds: float) -> None:
        if self.queue.learn(cost, seconds):
            self._events.limit(self.queue.limit.value)

    def _run_checked(self, live: list[Item[Request, Result]]) -> Sequence[Result]:
        self._events.batch(live[0].key, len(live))
        results = self._run(live[0].key, [item.request for item in live])
        if len(results) != len(live):
            raise RuntimeError(f"{len(live)} requests gave {len(results)} results")
        return results

    def _retry_smaller(
        self, live: list[Item[Request, Result]], cost: int, error: TooMuchAtOnce
    ) -> None:
        """Halve the limit and run the same requests; a lone one that does not fit fails."""
        self._events.too_much(live[0].key)
        if self.queue.shrink(cost):
            limit = self.queue.limit.value
            _log.warning("a batch did not fit the device; the limit is %d now", limit)
            self._events.limit(limit)
        if len(live) == 1:
            live[0].future.set_exception(error)
            return
        remaining = deque(live)
        while remaining:  # the limit may fall further on the way
            part: list[Item[Request, Result]] = []
            fill(part, remaining, self.queue.limit.value)
            self._compute(part)

    def _isolate(self, live: list[Item[Request, Result]], error: Exception) -> None:
        """Fail a lone request; run the members of a failed batch one by one."""
        if len(live) == 1:
            _log.error("inference failed", exc_info=error)
            live[0].future.set_exception(error)
            return
        for item in live:
            self._compute([item])

    def _resolve(
        self, live: list[Item[Request, Result]], results: Sequence[Result], started: float
    ) -> None:
        taken_s = time.monotonic() - started
        for item, result in zip(live, results, strict=True):
            outcome = Outcome(result, started - item.arrived, taken_s, len(live))
            item.future.set_result(outcome)
