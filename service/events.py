"""Tells whoever watches what happens: numbered events, remembered for a while. Knows no HTTP.

An event is written once, as the block of a server-sent event, whoever listens. Streams hold no
queue: each has a position in the one ring of the last events, and reads on from there.
"""

import asyncio
import contextlib
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from pydantic_core import to_json

from record.result import JsonObject
from service.errors import NotReady, TooManyStreams

NAMES = ("inspection", "feedback", "model", "drift", "job", "claim", "state")
Status = Literal["ready", "not_ready", "draining"]
Publish = Callable[[str, JsonObject], None]
_REMEMBERED = 2000
_MOST_BEHIND = 100  # a stream that writes for so long is told to look anew instead
# Events of a busy line are written together: 125 writes a second to all streams, not thousands.
_TOGETHER_S = 0.1
_EACH_S = 0.008
_AGAIN_S = 15.0  # when whoever found no place may ask again
_RETRY = b"retry: 2000\n"  # milliseconds after which a browser connects again
_DIGITS = 18


def unheard(_name: str, _data: JsonObject) -> None:
    """Publish to nobody: for what works without a bus."""


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    block: bytes


class EventBus:
    """Takes events from any thread and lets at most `most_streams` streams read them.

    Made on the event loop. `dropped()` is called whenever a slow stream loses what waited for it.
    """

    def __init__(
        self,
        *,
        most_streams: int,
        remembered: int = _REMEMBERED,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._boot = secrets.token_hex(4)
        self._most_streams = most_streams
        self._dropped = dropped
        self._last: deque[_Event] = deque(maxlen=remembered)
        self._number = 0  # of the last event
        self._status: Status = "not_ready"
        self._end: int | None = None  # the number of the last event that streams are told
        self._streams: set[Subscription] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._woken_at = 0.0

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def number(self) -> int:
        """How many events there have been."""
        return self._number

    @property
    def is_draining(self) -> bool:
        """Whether streams end, and no new one begins."""
        return self._end is not None

    def ends_at(self, position: int) -> bool:
        """Whether whoever was told so much is told nothing more."""
        return self._end is not None and position >= self._end

    def publish(self, name: str, data: JsonObject) -> None:
        """Tell all streams, from any thread, in microseconds.

        Raises `ValueError` for a name that is not one of `NAMES`.
        """
        if name not in NAMES:
            raise ValueError(f"{name!r} is no event; there are: {', '.join(NAMES)}")
        payload = _payload(data)
        if threading.get_ident() == self._thread:
            self._add(name, payload)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._add, name, payload)

    def change_status(self, status: Status) -> None:
        """Tell all streams where the service is; `draining`, which is for good, ends them."""
        if status == self._status or self.is_draining:
            return
        self._status = status
        self._add("state", _payload({"status": status}))
        if status == "draining":
            self._end = self._number
            self._wake()

    def subscribe(
        self, last_event_id: str | None, names: Collection[str] = NAMES
    ) -> "Subscription":
        """Begin a stream behind the event of this id, or now without one.

        `state` is among its events whatever the `names`. Raises `NotReady` while the service
        drains, or `TooManyStreams`.
        """
        if self.is_draining:
            raise NotReady("the service is shutting down; ask again in a moment")
        if len(self._streams) >= self._most_streams:
            raise TooManyStreams(
                f"{self._most_streams} streams of events are open, which is the most "
                "(MASKLINE_MAX_EVENT_STREAMS); close one, or ask again in a moment",
                _AGAIN_S,
            )
        position = self._number if last_event_id is None else self._position_of(last_event_id)
        subscription = Subscription(self, position, {*names, "state"})
        self._streams.add(subscription)
        return subscription

    def leave(self, subscription: "Subscription") -> None:
        """Free the place of a stream."""
        self._streams.discard(subscription)

    def after(self, position: int) -> list[_Event] | None:
        """Return the events behind a position; None where some are not remembered."""
        behind = self._number - position
        if behind > len(self._last):
            return None
        return list(islice(reversed(self._last), behind))[::-1]

    def id_of(self, position: int) -> str:
        """Return the id of the event at a position."""
        return f"{self._boot}.{position}"

    def state_block(self) -> bytes:
        """Write where the service is, with the id to go on from."""
        return _block("state", self.id_of(self._number), _payload({"status": self._status}))

    def gap_block(self, since: datetime | None) -> bytes:
        """Write that events since a moment (None: not known) are missing."""
        return _block("gap", self.id_of(self._number), _payload({"since": since}))

    def drop(self) -> None:
        """Count that a slow stream lost what waited for it."""
        self._dropped()

    def _position_of(self, event_id: str) -> int | None:
        """Where an event was; None where what followed it is not known any more."""
        boot, _, digits = event_id.partition(".")
        if boot != self._boot or not (digits.isascii() and digits.isdigit()):
            return None
        if len(digits) > _DIGITS or not 0 <= self._number - int(digits) <= len(self._last):
            return None
        return int(digits)

    def _add(self, name: str, payload: bytes) -> None:
        self._number += 1
        self._last.append(_Event(name, _block(name, self.id_of(self._number), payload)))
        if self._streams and self._waking is None:
            pause_s = max(_TOGETHER_S, _EACH_S * len(self._streams))
            due = max(self._loop.time(), self._woken_at + pause_s)
            self._waking = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._woken_at = self._loop.time()
        for subscription in self._streams:
            subscription.wake()


class Subscription:
    """One stream's place among the events; `position` None is behind a gap."""

    def __init__(self, bus: EventBus, position: int | None, names: Collection[str]) -> None:
        self._bus = bus
        self._names = names
        self._is_opened = False
        self._is_left = False
        self._misses = position is None
        self._position = bus.number if position is None else position
        self._read_at: datetime | None = None
        self._woken = asyncio.Event()
        self._woken.set()  # what it begins with is there

    def wake(self) -> None:
        """Let it read on."""
        self._woken.set()

    def close(self) -> None:
        """End it, and free its place at once."""
        self._is_left = True
        self._woken.set()
        self._bus.leave(self)

    async def read(self, within_s: float) -> bytes | None:
        """Wait for what comes next; a comment where nothing comes in time, None at the end.

        Begins with the events behind its position, or `gap`, and then `state`. Whoever was not
        waiting when more than a hundred events came gets `gap` instead of them.
        """
        is_late = self._is_opened and self._woken.is_set()
        try:
            async with asyncio.timeout(within_s):
                while not self._is_over:
                    await self._woken.wait()
                    self._woken.clear()
                    if blocks := self._next(is_late=is_late):
                        return b"".join(blocks)
        except TimeoutError:
            # The id keeps a stream of few names from falling behind what is remembered.
            return f": still here\nid: {self._bus.id_of(self._position)}\n\n".encode()
        return None

    @property
    def _is_over(self) -> bool:
        return self._is_left or (self._is_opened and self._bus.ends_at(self._position))

    def _next(self, *, is_late: bool) -> list[bytes]:
        blocks = self._waiting(is_late=is_late)
        self._position = self._bus.number
        self._read_at = datetime.now(UTC)
        if not self._is_opened:
            self._is_opened = True
            return [_RETRY, *blocks, self._bus.state_block()]
        return blocks

    def _waiting(self, *, is_late: bool) -> list[bytes]:
        """Blocks behind the position, or a gap."""
        if self._misses:
            self._misses = False
            return [self._bus.gap_block(None)]
        events = self._bus.after(self._position)
        if events is not None:
            blocks = [event.block for event in events if event.name in self._names]
            if not is_late or len(blocks) <= _MOST_BEHIND:
                return blocks
        self._bus.drop()
        # A result is published in the moment in which it is made: none before the last look.
        return [self._bus.gap_block(self._read_at), self._bus.state_block()]


def _block(name: str, event_id: str, payload: bytes) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), event_id.encode(), payload)


def _payload(data: JsonObject) -> bytes:
    """Write JSON on one line; what is no number is null."""
    try:
        return to_json(data, inf_nan_mode="null", fallback=str)
    except ValueError:  # the name of a folder that is not UTF-8
        return json.dumps(data, default=str).encode()
