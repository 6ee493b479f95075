import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future

from service.inference.batching import Batcher
from service.inference.queue import Outcome, Priority


class Recorder:
    """A `run` that doubles numbers, remembers its batches and can be held up."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, key: Hashable, requests: Sequence[int]) -> list[int]:
        self.batches.append((key, list(requests)))
        self.gate.wait(10)
        if any(r < 0 for r in requests):
            raise ValueError("a negative request")
        return [2 * r for r in requests]


def results(futures: Sequence["Future[Outcome[int]]"]) -> list[int]:
    return [future.result(10).result for future in futures]


def ask(
    batcher: "Batcher[int, int]",
    key: Hashable,
    request: int,
    *,
    cost: int = 1,
    priority: Priority = Priority.NORMAL,
    deadline: float | None = None,
    caller: str = "",
) -> "Future[Outcome[int]]":
    """Queue a request at once."""
    with batcher.queue.reserve(priority, cost=cost, deadline=deadline, caller=caller) as place:
        return batcher.queue.put(key, request, place)


def busy(batcher: "Batcher[int, int]", run: Recorder) -> "Future[Outcome[int]]":
    """Occupy the worker until the gate opens."""
    run.gate.clear()
    first = ask(batcher, "a", 0)
    while not run.batches:
        time.sleep(0.001)
    return first
