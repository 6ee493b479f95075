"""The queue in front of the device: reservations, turns, and what a batch takes of it.

Knows no thread that computes, no torch and no HTTP: everything happens under one lock, when it is
asked for. A request has a cost in work items (images × windows × masks), and a batch is bounded
by their sum. A full queue is an immediate `QueueFull`, never a wait; a request past its deadline or
given up by its owner is dropped before it costs anything.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from service.inference.limits import CostLimit, Room

Request = TypeVar("Request")
Result = TypeVar("Result")

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
class Item(Generic[Request, Result]):
    """A request that waits, and the future that its owner has."""

    key: Hashable
    request: Request
    cost: int
    deadline: float | None
    caller: str
    future: "Future[Outcome[Result]]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(eq=False, slots=True)
class Reservation:
    """Room in the queue that is kept for a request while it is made ready."""

    priority: Priority
    cost: int
    deadline: float | None
    caller: str = ""


class RequestQueue(Generic[Request, Result]):
    """Requests that wait for the device, in the order of their turns; safe to use from any thread.

    Callers have their turns in rotation: whoever asks seldom does not wait behind all of who
    floods, and is not refused for the room that others have taken. `is_served` says whether anybody
    still takes from the queue.
    """

    def __init__(
        self, config: BatchingConfig, events: Events, *, is_served: Callable[[], bool]
    ) -> None:
        self._config = config
        self._events = events
        self._is_served = is_served
        self._room = Room(config.max_queue_size)
        self.limit = CostLimit(config.max_batch_cost)
        self._queues: tuple[deque[Item[Request, Result]], ...] = tuple(deque() for _ in Priority)
        self._reservations: set[Reservation] = set()
        self._turn = 0
        self._changed = threading.Condition()
        self._closed = False
        self._cost_seconds = 0.01  # running mean of one lane's seconds per work item

    @property
    def depth(self) -> int:
        """Requests waiting now."""
        return sum(len(queue) for queue in self._queues)

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and self._is_served()

    def seconds_for(self, cost: int) -> float:
        """How long this many work items take, by what was measured lately."""
        return cost * self._cost_seconds / self._config.lanes

    def put(
        self, key: Hashable, request: Request, reservation: Reservation
    ) -> "Future[Outcome[Result]]":
        """Queue a request in the room reserved for it; raises `BatcherClosed`.

        It is not refused any more, but dropped if its turn comes after the reserved deadline.
        """
        item: Item[Request, Result] = Item(
            key, request, reservation.cost, reservation.deadline, reservation.caller
        )
        with self._changed:
            if not self.is_open:
                raise BatcherClosed("the service is shutting down")
            self._reservations.discard(reservation)
            _insert(self._queues[reservation.priority], item)
            self._changed.notify()
        return item.future

    def admit(self, priority: Priority, deadline: float | None = None, *, caller: str = "") -> None:
        """Raise what `reserve` would raise now: ask before a request costs anything."""
        with self._changed:
            self._admit(priority, deadline, caller)

    def full(self, caller: str = "") -> QueueFull | None:
        """The error that would refuse a request of normal priority now; None where none would."""
        try:
            self.admit(Priority.NORMAL, caller=caller)
        except QueueFull as full:
            return full
        except BatcherClosed:  # another answer, which is not for here
            return None
        return None

    @contextmanager
    def reserve(
        self,
        priority: Priority,
        *,
        cost: int = 1,
        deadline: float | None = None,
        caller: str = "",
    ) -> Iterator[Reservation]:
        """Keep room for a request until it is submitted, or the block ends.

        Raises `QueueFull` or `BatcherClosed` at once rather than wait: whoever is refused is so
        before it costs anything, however many ask for the last room. `deadline` is on the clock of
        `time.monotonic`; a request whose turn would come after it, or after `max_queue_wait_s`, is
        refused now, while its sender can still do something else.
        """
        reservation = Reservation(priority, cost, deadline, caller)
        with self._changed:
            self._admit(priority, deadline, caller)
            self._reservations.add(reservation)
        try:
            yield reservation
        finally:
            with self._changed:
                self._reservations.discard(reservation)

    def _admit(self, priority: Priority, deadline: float | None, caller: str) -> None:
        if not self.is_open:
            raise BatcherClosed("the service is shutting down")
        wait = self.seconds_for(self._cost_before(priority, caller))
        longest = self._config.max_queue_wait_s
        if deadline is not None:
            longest = min(longest, deadline - time.monotonic())
        if 0 < longest < wait or not self._has_room(priority, caller):
            raise QueueFull(wait)

    def _has_room(self, priority: Priority, caller: str) -> bool:
        holders = [item.caller for item in self._queues[priority]]
        holders += [held.caller for held in self._reservations if held.priority is priority]
        waiting, size = len(holders), self._config.max_queue_size
        if caller not in holders and waiting < 2 * size and len(set(holders)) < size:
            return True  # it waits for one turn of each other caller, however much they have sent
        if priority is Priority.NORMAL:
            return self._room.has_room(waiting)
        return waiting < size  # an archive is patient

    def _cost_before(self, priority: Priority, caller: str) -> int:
        """Work items that have their turn before a new request of this priority and caller."""
        waiting = self._queues if priority is Priority.LOW else self._queues[:1]
        ahead = [(item.caller, item.cost) for queue in waiting for item in queue]
        ahead += [
            (held.caller, held.cost) for held in self._reservations if held.priority <= priority
        ]
        return _cost_in_turn(ahead, caller)

    def take(self) -> list[Item[Request, Result]]:
        """Wait for requests and take those that share the leading one's key; empty when closed."""
        with self._changed:
            while True:
                while not self.depth and not self._closed:
                    self._changed.wait()
                self._wait_for_company()
                batch = self._take_batch()
                if batch or (self._closed and not self.depth):
                    return batch

    def learn(self, cost: int, seconds: float) -> bool:
        """Follow what a work item takes, and let a lowered limit recover; True where it rose."""
        with self._changed:
            self._cost_seconds += 0.2 * (seconds / cost - self._cost_seconds)
            return self.limit.succeeded(cost)

    def shrink(self, cost: int) -> bool:
        """Lower the limit after a batch of this cost did not fit; False where it stays at 1."""
        with self._changed:
            return self.limit.shrink(cost)

    def stop_taking(self) -> None:
        """Take no more requests."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail_waiting(self, error: Exception) -> None:
        """Fail all that wait."""
        with self._changed:
            waiting = [item for queue in self._queues for item in queue]
            for queue in self._queues:
                queue.clear()
        fail(waiting, error)

    def _wait_for_company(self) -> None:
        if not self.depth or not self._config.max_queue_delay_s:
            return
        oldest = min(queue[0].arrived for queue in self._queues if queue)
        until = oldest + self._config.max_queue_delay_s
        while 0 < self._waiting_cost() < self.limit.value and not self._closed:
            remaining_s = until - time.monotonic()
            if remaining_s <= 0 or not self._changed.wait(remaining_s):
                return

    def _waiting_cost(self) -> int:
        return sum(item.cost for queue in self._queues for item in queue)

    def _take_batch(self) -> list[Item[Request, Result]]:
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
        batch: list[Item[Request, Result]] = []
        limit = min(self.limit.value, -(-self._waiting_cost() // self._config.lanes))
        fill(batch, low if low_leads else normal, limit)
        if low_leads:
            fill(batch, normal, limit)
        return batch

    def _drop_lost(self, queue: deque[Item[Request, Result]]) -> None:
        """Drop what its owner gave up and what is past its deadline."""
        now = time.monotonic()
        waiting = [item for item in queue if not _is_lost(item, now, self._events)]
        if len(waiting) < len(queue):
            queue.clear()
            queue.extend(waiting)


def fill(
    batch: list[Item[Request, Result]], queue: deque[Item[Request, Result]], limit: int
) -> None:
    """Move requests of one key from the queue's head into a batch of at most this cost, or one."""
    behind: deque[Item[Request, Result]] = deque()
    cost = sum(item.cost for item in batch)
    while queue:
        item = queue.popleft()
        fits = cost + item.cost <= limit
        if not batch or (item.key == batch[0].key and fits):
            batch.append(item)
            cost += item.cost
        else:
            behind.append(item)
            if not fits:
                break
    queue.extendleft(reversed(behind))


def _cost_in_turn(ahead: Sequence[tuple[str, int]], caller: str) -> int:
    """Sum what of (caller, cost) has its turn before a new request of this caller."""
    turns = sum(holder == caller for holder, _ in ahead) + 1
    seen: Counter[str] = Counter()
    total = 0
    for holder, cost in ahead:
        seen[holder] += 1
        if holder == caller or seen[holder] <= turns:
            total += cost
    return total


def _is_lost(item: Item[Request, Result], now: float, events: Events) -> bool:
    """Whether nobody waits for an item any more, or its time has passed; it is ended then."""
    if item.future.cancelled():
        item.future.set_running_or_notify_cancel()
        events.dropped("gone")
        return True
    if item.deadline is not None and now >= item.deadline:
        events.dropped("deadline")
        fail([item], DeadlineMissed("the deadline came before the image's turn"))
        return True
    return False


def _insert(queue: "deque[Item[Request, Result]]", item: Item[Request, Result]) -> None:
    """Put an item in its turn: behind as many items of each other caller as of its own."""
    turns = sum(waiting.caller == item.caller for waiting in queue)
    seen: Counter[str] = Counter()
    position = 0
    for number, waiting in enumerate(queue, start=1):
        if seen[waiting.caller] <= turns:
            position = number
        seen[waiting.caller] += 1
    queue.insert(position, item)


def fail(items: Sequence[Item[Request, Result]], error: Exception) -> None:
    """Fail every request that has not ended yet."""
    for item in items:
        future = item.future
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.set_exception(error)
