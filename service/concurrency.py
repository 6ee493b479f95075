"""Work in threads, and many jobs of one request a few at a time, so that others get their turn."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")
Count = Callable[[int, int], None]  # how many are done, of how many
_AT_ONCE = 8  # images of one request in decoding, queue or inference: others get their turn


async def in_thread(pool: Executor, work: Callable[[], T]) -> T:
    """Run work in a thread of a pool; raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def uncounted(done: int, total: int) -> None:
    """Count for nobody."""


async def in_turns(
    jobs: Sequence[Callable[[], Awaitable[T]]], counted: Count = uncounted
) -> list[T | BaseException]:
    """Run jobs a few at a time; results and errors come in the jobs' order."""
    turns, done = asyncio.Semaphore(_AT_ONCE), 0

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        nonlocal done
        async with turns:
            result = await job()
        done += 1
        counted(done, len(jobs))
        return result

    return await asyncio.gather(*(run(job) for job in jobs), return_exceptions=True)


async def all_in_turns(
    jobs: Sequence[Callable[[], Awaitable[T]]], counted: Count = uncounted
) -> list[T]:
    """Run jobs a few at a time; raises the first error, in the jobs' order, once all have ended."""
    results: list[T] = []
    for result in await in_turns(jobs, counted):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
