"""Costly answers, each computed once and remembered; one is computed at a time.

On the event loop alone, so that nothing here needs a lock.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.inference.queue import QueueFull

Value = TypeVar("Value")
_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is remembered, and how many answers may be computed or waited for at once."""

    values: int = 64
    total_bytes: int = 32_000_000
    underway: int = 8


class Remembered(Generic[Value]):
    """The values used last, as many as fit."""

    def __init__(self, bounds: Bounds, size: Callable[[Value], int]) -> None:
        self._bounds = bounds
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable) -> Value | None:
        """Return what is remembered under a key."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Remember a value, and forget those used longest ago."""
        self._values[key] = value
        self.bytes += self._size(value)
        while len(self._values) > self._bounds.values or self.bytes > self._bounds.total_bytes:
            _, forgotten = self._values.popitem(last=False)
            self.bytes -= self._size(forgotten)


class Once(Generic[Value]):
    """Computes what is not remembered, one value at a time, however many ask for it."""

    def __init__(self, bounds: Bounds, size: Callable[[Value], int]) -> None:
        self._bounds = bounds
        self._remembered = Remembered(bounds, size)
        self._underway: dict[Hashable, asyncio.Event] = {}
        self._turn = asyncio.Semaphore(1)

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value of a key; where its computing fails or is left, the next one does it.

        Raises what `compute` raises, or `QueueFull` where too many others wait.
        """
        while (value := self._remembered.get(key)) is None:
            if key in self._underway:
                await self._underway[key].wait()
                continue
            if len(self._underway) >= self._bounds.underway:
                raise QueueFull(_RETRY_S)
            ended = self._underway[key] = asyncio.Event()
            try:
                async with self._turn:
                    value = await compute()
                self._remembered.put(key, value)
                return value
            finally:
                del self._underway[key]
                ended.set()
        return value
