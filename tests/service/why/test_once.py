import asyncio

import pytest

from service.inference.queue import QueueFull
from service.why.once import Bounds, Once, Remembered


class Slow:
    """Counts what is computed, and how many of it at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.now = self.most = 0

    async def value(self, key: str) -> bytes:
        self.calls.append(key)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return key.encode()


def once(**bounds: int) -> Once[bytes]:
    return Once(Bounds(**bounds), len)


def test_who_asks_together_gets_one_answer_and_one_is_computed_at_a_time() -> None:
    async def ask() -> Slow:
        slow, values = Slow(), once()
        keys = ["a", "b", "a", "a", "b", "c"]
        answers = await asyncio.gather(
            *(values.get(key, lambda key=key: slow.value(key)) for key in keys)
        )
        assert answers == [key.encode() for key in keys]
        return slow

    slow = asyncio.run(ask())
    assert sorted(slow.calls) == ["a", "b", "c"]
    assert slow.most == 1


def test_where_the_first_fails_or_leaves_the_next_one_computes() -> None:
    async def ask() -> bytes:
        slow, values = Slow(), once()

        async def fails() -> bytes:
            await asyncio.sleep(0.01)
            raise ValueError("no")

        first = asyncio.create_task(values.get("a", fails))
        second = asyncio.create_task(values.get("a", lambda: slow.value("a")))
        await asyncio.sleep(0)
        third = asyncio.create_task(values.get("a", lambda: slow.value("a")))
        with pytest.raises(ValueError, match="no"):
            await first
        second.cancel()
        return await third

    assert asyncio.run(ask()) == b"a"


def test_too_many_that_wait_are_refused() -> None:
    async def ask() -> None:
        slow, values = Slow(), once(underway=2)
        tasks = [asyncio.create_task(values.get(k, lambda k=k: slow.value(k))) for k in "abc"]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done[:2] == [b"a", b"b"]
        assert isinstance(done[2], QueueFull)

    asyncio.run(ask())


def test_what_was_used_longest_ago_is_forgotten() -> None:
    remembered = Remembered[bytes](Bounds(values=3, total_bytes=10), len)
    for key in ("a", "b", "c"):
        remembered.put(key, b"xx")
    assert remembered.get("a") == b"xx"
    remembered.put("d", b"xx")
    assert remembered.get("b") is None
    remembered.put("e", b"x" * 8)
    assert remembered.get("e") is not None
    assert remembered.bytes <= 10
    remembered.put("f", b"x" * 99)
    assert remembered.get("f") is None
    assert remembered.bytes == 0
