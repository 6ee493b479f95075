"""Cross-request batching in front of one thread that computes, or of a few.

Greedy: an idle thread starts at once with what is there; while it is busy what comes is gathered. A
request has a cost in work items (images × windows × masks), and a batch is bounded by their sum.
Several threads (`lanes`) share evenly what waits. Knows no torch, image or HTTP.

Every submitted request ends: with its result, with an error, or cancelled by its owner. A full
queue is an immediate `QueueFull`, never a wait; a request past its deadline or given up by its
owner is dropped before it costs anything.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from service.inference.limits import CostLimit, CrashGuard, Room

Request = TypeVar("Request")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)
_LOW_TURN = 4  # while both wait, every fourth batch is led by a request of low priority


class QueueFull(Exception):
    """The queue holds as many requests as it may; come back in `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class BatcherClosed(Exception):
    """The batcher is shutting down and takes no more requests."""


class DeadlineMissed(Exception):
    """The request's deadline came before its turn; nothing was computed for it."""


class InferenceCrashed(Exception):
    """What ran this request's batch broke off in a way that no request explains."""


class TooMuchAtOnce(Exception):
    """Raised by `run` when a batch does not fit the device: smaller ones are tried then."""


class Priority(IntEnum):
    """Low gives way to normal, but gets every fourth turn."""

    NORMAL = 0
    LOW = 1


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """Bounds of the batcher; a delay of 0 is greedy. `max_queue_size` holds for each priority."""

    lanes: int = 1
    max_batch_cost: int = 64
    max_queue_size: int = 64
    max_queue_wait_s: float = float("inf")
    max_queue_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """A result and what it took: seconds in the queue, seconds of its batch, size of its batch."""

    result: Result
    queue_s: float
    inference_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Events:
    """What a batcher tells of its life, called in its threads."""

    batch: Callable[[Hashable, int], None] = lambda key, size: None
    dropped: Callable[[str], None] = lambda reason: None  # "deadline" or "gone"
    limit: Callable[[int], None] = lambda cost: None  # the batch limit after it changed
    too_much: Callable[[Hashable], None] = lambda key: None


@dataclass(slots=True)
class _Item(Generic[Request, Result]):
    key: Hashable
    request: Request
    cost: int
    deadline: float | None
    caller: str
    future: "Future[Outcome[Result]]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(eq=False, slots=True)
class Place:
    """Room in the queue that is kept for a request while it is made ready."""

    priority: Priority
    cost: int
    deadline: float | None
    caller: str = ""


class Batcher(Generic[Request, Result]):
    """Gathers requests of one key into batches for `run`, which as many threads call as it has lanes.

    `run(key, requests)` returns one result for each request, in order. When it raises for a batch
    of several, each request is run alone, so that a bad one fails by itself. When it raises
    `TooMuchAtOnce`, the same requests are run again in smaller batches.

    Callers have their turns in rotation: whoever asks seldom does not wait behind all of who
    floods, and is not refused for the room that the others have taken.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[Request]], Sequence[Result]],
        config: BatchingConfig,
        *,
        events: Events | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._events = events or Events()
        self._room = Room(config.max_queue_size)
        self._limit = CostLimit(config.max_batch_cost)
        self._crashes = CrashGuard()
        self._queues: tuple[deque[_Item[Request, Result]], ...] = tuple(deque() for _ in Priority)
        self._kept: set[Place] = set()
        self._turn = 0
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: list[float | None] = [None] * config.lanes
        self._cost_seconds = 0.01  # running mean of one lane's seconds per work item
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"inference-{lane}", daemon=True)
            for lane in range(config.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Requests waiting now."""
        return sum(len(queue) for queue in self._queues)

    @property
    def is_alive(self) -> bool:
        """Whether requests are still being worked on."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    @property
    def busy_s(self) -> float:
        """How long the oldest batch in hand has been running; 0 when idle."""
        since = min((one for one in self._busy_since if one is not None), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def seconds_for(self, cost: int) -> float:
        """How long this many work items take, by what was measured lately."""
        return cost * self._cost_seconds / self._config.lanes

    def submit(self, key: Hashable, request: Request, place: Place) -> "Future[Outcome[Result]]":
        """Queue a request in the place that was kept for it; raises `BatcherClosed`.

        It is not refused any more, but dropped where its turn comes after the place's deadline.
        """
        item: _Item[Request, Result] = _Item(key, request, place.cost, place.deadline, place.caller)
        with self._changed:
            if not self.is_alive:
                raise BatcherClosed("the service is shutting down")
            self._kept.discard(place)
            _put(self._queues[place.priority], item)
            self._changed.notify()
        return item.future

    def admit(self, priority: Priority, deadline: float | None = None, *, caller: str = "") -> None:
        """Raise what `place` would raise now: ask before a request costs anything."""
        with self._changed:
            self._admit(priority, deadline, caller)

    def full(self, caller: str = "") -> QueueFull | None:
        """What a request of normal priority would be refused with now; None where it would not be."""
        try:
            self.admit(Priority.NORMAL, caller=caller)
        except QueueFull as full:
            return full
        except BatcherClosed:  # another answer, which is not for here
            return None
        return None

    @contextmanager
    def place(
        self,
        priority: Priority,
        *,
        cost: int = 1,
        deadline: float | None = None,
        caller: str = "",
    ) -> Iterator[Place]:
        """Keep room for a request until it is submitted, or the block ends.

        Raises `QueueFull` or `BatcherClosed` at once rather than wait: whoever is refused is so
        before it costs anything, however many ask for the last room. `deadline` is on the clock of
        `time.monotonic`; a request whose turn would come after it, or after `max_queue_wait_s`, is
        refused now, while its sender can still do something else.
        """
        place = Place(priority, cost, deadline, caller)
        with self._changed:
            self._admit(priority, deadline, caller)
            self._kept.add(place)
        try:
            yield place
        finally:
            with self._changed:
                self._kept.discard(place)

    def _admit(self, priority: Priority, deadline: float | None, caller: str) -> None:
        if not self.is_alive:
            raise BatcherClosed("the service is shutting down")
        wait = self.seconds_for(self._cost_before(priority, caller))
        most = self._config.max_queue_wait_s
        if deadline is not None:
            most = min(most, deadline - time.monotonic())
        if 0 < most < wait or not self._has_room(priority, caller):
            raise QueueFull(wait)

    def _has_room(self, priority: Priority, caller: str) -> bool:
        holders = [item.caller for item in self._queues[priority]]
        holders += [one.caller for one in self._kept if one.priority is priority]
        taken, most = len(holders), self._config.max_queue_size
        if caller not in holders and taken < 2 * most and len(set(holders)) < most:
            return True  # it waits for one turn of each other caller, however much they have sent
        if priority is Priority.NORMAL:
            return self._room.has_room(taken)
        return taken < most  # an archive is patient

    def _cost_before(self, priority: Priority, caller: str) -> int:
        """Work items that have their turn before a new request of this priority and caller."""
        waiting = self._queues if priority is Priority.LOW else self._queues[:1]
        ahead = [(item.caller, item.cost) for queue in waiting for item in queue]
        ahead += [(one.caller, one.cost) for one in self._kept if one.priority <= priority]
        turns = sum(one == caller for one, _ in ahead) + 1
        seen: Counter[str] = Counter()
        total = 0
        for one, cost in ahead:
            seen[one] += 1
            if one == caller or seen[one] <= turns:
                total += cost
        return total

    def close(self, timeout_s: float = 30.0) -> None:
        """Take no more requests, finish those that wait, and stop the threads."""
        until = time.monotonic() + timeout_s
        self._stop_taking()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._fail_waiting(BatcherClosed("the service has shut down"))

    def _stop_taking(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self, lane: int) -> None:
        """Run batches until closed."""
        while self._work_once(lane):
            pass  # no batch is held here: while nothing comes, its model would not be freed

    def _work_once(self, lane: int) -> bool:
        """Wait for a batch and run it; False when closed."""
        batch = self._next_batch()
        if not batch:
            return False
        self._busy_since[lane] = time.monotonic()
        try:
            self._process(batch)
        except BaseException as fatal:  # noqa: BLE001 - a thread must not end while requests wait
            _log.critical("the inference thread broke off", exc_info=fatal)
            _fail(batch, InferenceCrashed("inference broke off; send the image again"))
            if self._crashes.is_hopeless():
                _log.critical("it broke off too often; this process takes no more requests")
                self._stop_taking()
                self._fail_waiting(BatcherClosed("inference has stopped; restart the service"))
        finally:
            self._busy_since[lane] = None
        return True

    def _next_batch(self) -> list[_Item[Request, Result]]:
        """Wait for requests and take those that share the leading one's key; empty when closed."""
        with self._changed:
            while True:
                while not self.depth and not self._closed:
                    self._changed.wait()
                self._wait_for_company()
                batch = self._take()
                if batch or (self._closed and not self.depth):
                    return batch

    def _wait_for_company(self) -> None:
        if not self.depth or not self._config.max_queue_delay_s:
            return
        oldest = min(queue[0].arrived for queue in self._queues if queue)
        until = oldest + self._config.max_queue_delay_s
        while 0 < self._waiting_cost() < self._limit.value and not self._closed:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _waiting_cost(self) -> int:
        return sum(item.cost for queue in self._queues for item in queue)

    def _take(self) -> list[_Item[Request, Result]]:
        """Take the leading request and those of its key that fit beside it.

        Normal requests ride along in a batch that a low one leads, never the other way round: on a
        CPU a fuller batch is a slower one.
        """
        for queue in self._queues:
            self._drop_lost(queue)
        normal, low = self._queues
        if normal and low:
            self._turn += 1
        low_leads = bool(low) and (not normal or self._turn % _LOW_TURN == 0)
        batch: list[_Item[Request, Result]] = []
        most = min(self._limit.value, -(-self._waiting_cost() // self._config.lanes))
        self._fill(batch, low if low_leads else normal, most)
        if low_leads:
            self._fill(batch, normal, most)
        return batch

    def _fill(
        self, batch: list[_Item[Request, Result]], queue: deque[_Item[Request, Result]], most: int
    ) -> None:
        """Move requests of one key from the queue's head into a batch of at most this cost, or one."""
        left: deque[_Item[Request, Result]] = deque()
        cost = sum(item.cost for item in batch)
        while queue:
            item = queue.popleft()
            fits = cost + item.cost <= most
            if not batch or (item.key == batch[0].key and fits):
                batch.append(item)
                cost += item.cost
            else:
                left.append(item)
                if not fits:
                    break
        queue.extendleft(reversed(left))

    def _drop_lost(self, queue: deque[_Item[Request, Result]]) -> None:
        """Drop what its owner gave up and what is past its deadline."""
        now = time.monotonic()
        kept = [item for item in queue if not self._is_lost(item, now)]
        if len(kept) < len(queue):
            queue.clear()
            queue.extend(kept)

    def _is_lost(self, item: _Item[Request, Result], now: float) -> bool:
        if item.future.cancelled():
            item.future.set_running_or_notify_cancel()
            self._events.dropped("gone")
            return True
        if item.deadline is not None and now >= item.deadline:
            self._events.dropped("deadline")
            _fail([item], DeadlineMissed("the deadline came before the image's turn"))
            return True
        return False

    def _process(self, batch: list[_Item[Request, Result]]) -> None:
        """Run what nobody gave up in the meantime."""
        live = [item for item in batch if item.future.set_running_or_notify_cancel()]
        if live:
            self._compute(live)

    def _compute(self, live: list[_Item[Request, Result]]) -> None:
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
        """Follow what a work item takes, and let a lowered limit recover."""
        with self._changed:
            self._cost_seconds += 0.2 * (seconds / cost - self._cost_seconds)
            risen = self._limit.succeeded(cost)
        if risen:
            self._events.limit(self._limit.value)

    def _run_checked(self, live: list[_Item[Request, Result]]) -> Sequence[Result]:
        self._events.batch(live[0].key, len(live))
        results = self._run(live[0].key, [item.request for item in live])
        if len(results) != len(live):
            raise RuntimeError(f"{len(live)} requests gave {len(results)} results")
        return results

    def _retry_smaller(
        self, live: list[_Item[Request, Result]], cost: int, error: TooMuchAtOnce
    ) -> None:
        """Halve the limit and run the same requests under it; a lone one that does not fit fails."""
        self._events.too_much(live[0].key)
        with self._changed:
            shrunk = self._limit.shrink(cost)
        if shrunk:
            _log.warning("a batch did not fit the device; the limit is %d now", self._limit.value)
            self._events.limit(self._limit.value)
        if len(live) == 1:
            live[0].future.set_exception(error)
            return
        rest = deque(live)
        while rest:  # the limit may fall further on the way
            part: list[_Item[Request, Result]] = []
            self._fill(part, rest, self._limit.value)
            self._compute(part)

    def _isolate(self, live: list[_Item[Request, Result]], error: Exception) -> None:
        """Fail a lone request; run the members of a failed batch one by one."""
        if len(live) == 1:
            _log.error("inference failed", exc_info=error)
            live[0].future.set_exception(error)
            return
        for item in live:
            self._compute([item])

    def _resolve(
        self, live: list[_Item[Request, Result]], results: Sequence[Result], started: float
    ) -> None:
        taken = time.monotonic() - started
        for item, result in zip(live, results, strict=True):
            outcome = Outcome(result, started - item.arrived, taken, len(live))
            item.future.set_result(outcome)

    def _fail_waiting(self, error: Exception) -> None:
        with self._changed:
            waiting = [item for queue in self._queues for item in queue]
            for queue in self._queues:
                queue.clear()
        _fail(waiting, error)


def _put(queue: "deque[_Item[Request, Result]]", item: _Item[Request, Result]) -> None:
    """Put an item behind those whose turn comes before it: as many of each other caller as of its own."""
    turns = sum(one.caller == item.caller for one in queue)
    seen: Counter[str] = Counter()
    place = 0
    for number, one in enumerate(queue, start=1):
        if seen[one.caller] <= turns:
            place = number
        seen[one.caller] += 1
    queue.insert(place, item)


def _fail(items: Sequence[_Item[Request, Result]], error: Exception) -> None:
    """Fail every request that has not ended yet."""
    for item in items:
        future = item.future
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.set_exception(error)
