"""How long a request may take, and whether anyone still waits for its answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request

from service.errors import ClientGone
from service.inference.queue import DeadlineMissed
from service.timings import Stage


@asynccontextmanager
async def while_wanted(
    request: Request, deadline: float, stage: Callable[[], Stage]
) -> AsyncIterator[None]:
    """Run the block until the client leaves or the deadline (of `time.monotonic`) passes.

    The body must have been read. `stage` tells where the request is. Raises `ClientGone` with the
    stage it was in, or `DeadlineMissed`; queued work is cancelled then.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()  # the task is inside the block: the watcher is cancelled when it leaves it

    watcher = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            yield
    except TimeoutError:
        raise DeadlineMissed("the deadline came before the answer was ready") from None
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientGone(stage()) from None
    finally:
        watcher.cancel()
