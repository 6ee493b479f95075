import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from service.app import create_app
from service.http.admission import Door
from service.inference.queue import QueueFull
from service.metrics import Metrics
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings
from tests.service.test_faults import Held

GOOD = png(normal_pixels(6000))


def scope(path: str, query: bytes = b"", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    asked = {"type": "http", "method": "POST", "path": path, "query_string": query}
    return asked | {"headers": [(b"host", b"line"), *headers]}


class Behind:
    """An application that lets everyone in, behind a door with a full queue."""

    def __init__(self) -> None:
        self.let_in = 0
        self.door = Door(
            self.app,
            limit=100,
            shared=100,
            rivals=lambda: 1,
            full=lambda: QueueFull(2.5),
            seconds_for=float,
            metrics=Metrics(),
        )

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.let_in += 1

    async def ask(self, asked: dict[str, Any]) -> float:
        """Return the seconds that a refusal took."""
        started = time.monotonic()

        async def receive() -> dict[str, Any]:
            raise AssertionError("the body of a refused request was read")

        async def send(message: Any) -> None:
            assert message.get("status", 429) == 429

        await self.door(asked, receive, send)
        return time.monotonic() - started


def test_a_full_queue_refuses_at_the_door_only_those_whom_it_concerns() -> None:
    behind = Behind()

    async def run() -> None:
        for path in ("/score", "/v1/score"):
            await behind.ask(scope(path, b"part_id=a"))
        assert behind.let_in == 0
        await behind.ask(scope("/score", b"priority=low"))
        await behind.ask(scope("/score", b"", (b"x-maskline-priority", b"low")))
        await behind.ask(scope("/score", b"", (b"x-maskline-idempotency-key", b"7")))
        await behind.ask(scope("/v1/models/part:rollback"))
        assert behind.let_in == 4

    asyncio.run(run())


def test_a_few_refusals_leave_at_once_and_a_storm_is_paced() -> None:
    behind = Behind()

    async def run() -> list[float]:
        return await asyncio.gather(*(behind.ask(scope("/score")) for _ in range(50)))

    storm = sorted(asyncio.run(run()))
    assert storm[10] < 0.025
    assert storm[25] >= 0.025
    assert behind.let_in == 0


def test_a_refused_image_costs_no_decoding(tiny_folder: Path) -> None:
    app = create_app(settings(tiny_folder, parallel_batches=1, max_queue_size=1))
    with TestClient(app) as client:
        held = Held(app)
        held.gate.clear()
        decoded = app.state.parts.inspector.metrics.stage.labels("decode")
        askers = [threading.Thread(target=client.post, args=("/score",), kwargs={"content": GOOD})]
        askers[0].start()
        held.wait_until_busy()
        askers.append(
            threading.Thread(target=client.post, args=("/score",), kwargs={"content": GOOD})
        )
        askers[1].start()
        while not app.state.parts.inspector.engine.batcher.queue.depth:
            time.sleep(0.005)
        before = decoded._sum.get()
        low = threading.Thread(
            target=client.post, args=("/score?priority=low",), kwargs={"content": GOOD}
        )
        refused = [client.post("/score", content=GOOD) for _ in range(5)]
        assert decoded._sum.get() == before
        low.start()  # has room of its own
        while app.state.parts.inspector.engine.batcher.queue.depth < 2:
            time.sleep(0.005)
        held.gate.set()
        for asker in (*askers, low):
            asker.join()
    assert {(one.status_code, one.json()["code"]) for one in refused} == {(429, "queue_full")}
    assert all(int(one.headers["Retry-After"]) >= 1 for one in refused)


class Shared:
    """A door of eight places, all of whose requests stay inside until they are let go."""

    def __init__(self, keys: int) -> None:
        self.let_go = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.door = Door(
            self.app,
            limit=20,
            shared=8,
            rivals=lambda: keys,
            full=lambda: None,
            seconds_for=float,
            metrics=Metrics(),
        )

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        scope["inside"].append(scope["state"]["key"])
        await self.let_go.wait()

    async def ask(self, key: str, times: int) -> int:
        """Return how many of a key's requests were let in."""
        inside: list[str] = []

        async def send(message: Any) -> None:
            assert message.get("status", 429) == 429

        for _ in range(times):
            asked = scope("/v1/score") | {"state": {"key": key}, "inside": inside}
            self.tasks.append(
                asyncio.create_task(self.door(asked, send, send)),  # type: ignore[arg-type]
            )
            await asyncio.sleep(0)
        return len(inside)


def test_a_key_that_floods_leaves_places_to_the_others() -> None:
    async def run() -> None:
        shared = Shared(keys=3)
        assert await shared.ask("flood", 30) == 4  # one other key may come
        assert await shared.ask("line", 1) == 1
        assert await shared.ask("second flood", 30) == 2  # three are active, there is no fourth
        assert await shared.ask("line", 1) == 1
        shared.let_go.set()
        await asyncio.gather(*shared.tasks)

    asyncio.run(run())


def test_a_single_key_has_the_whole_door() -> None:
    async def run() -> None:
        shared = Shared(keys=1)
        assert await shared.ask("line", 30) == 20
        shared.let_go.set()
        await asyncio.gather(*shared.tasks)

    asyncio.run(run())
