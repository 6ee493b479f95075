"""The bus alone: what is remembered, what a slow stream is told, how many may listen."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from service.errors import NotReady, TooManyStreams
from service.events import EventBus, Subscription

Told = tuple[str, str, Any]  # name, id, data


def told(blocks: bytes) -> list[Told]:
    """Read events as a browser would; comments and ids without data are none."""
    events = []
    for block in blocks.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if "data" in fields:
            events.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return events


def with_bus(check: Callable[[EventBus], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        await check(EventBus(**({"most_streams": 32} | options)))

    asyncio.run(run())


async def read(stream: Subscription, within_s: float = 2.0) -> list[Told]:
    blocks = await stream.read(within_s)
    assert blocks is not None
    return told(blocks)


async def ids_of(stream: Subscription, count: int) -> list[str]:
    """Read ids of inspections until there are so many."""
    ids: list[str] = []
    while len(ids) < count:
        ids += [data["result_id"] for name, _, data in await read(stream) if name == "inspection"]
    return ids


def inspect(bus: EventBus, *numbers: int) -> None:
    for number in numbers:
        bus.publish("inspection", {"result_id": str(number)})


def test_a_stream_begins_with_the_state_and_an_id_to_go_on_from() -> None:
    async def check(bus: EventBus) -> None:
        bus.change_status("ready")
        inspect(bus, 1, 2)
        first = bus.subscribe(None)
        [(name, event_id, data)] = await read(first)
        assert (name, data) == ("state", {"status": "ready"})
        first.close()
        inspect(bus, 3, 4)  # while nobody listens
        again = bus.subscribe(event_id)
        names = [(name, data) for name, _, data in await read(again)]
        assert names == [
            ("inspection", {"result_id": "3"}),
            ("inspection", {"result_id": "4"}),
            ("state", {"status": "ready"}),
        ]

    with_bus(check)


def test_each_event_is_numbered_and_any_of_them_can_be_gone_on_from() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None)
        await read(stream)
        inspect(bus, *range(20))
        events = await read(stream)
        assert [data["result_id"] for _, _, data in events] == [str(n) for n in range(20)]
        for index, (_, event_id, _) in enumerate(events):
            resumed = bus.subscribe(event_id)
            *replayed, (last, _, _) = await read(resumed)
            assert last == "state"
            ids = [data["result_id"] for _, _, data in replayed]
            assert ids == [str(n) for n in range(index + 1, 20)]
            resumed.close()

    with_bus(check)


@pytest.mark.parametrize(
    "lost", ["0123abcd.3", "", "x", "{boot}.", "{boot}.-1", "{boot}.1", "{boot}.99", "{boot}.²", 9]
)
def test_an_id_that_cannot_be_gone_on_from_is_a_gap_of_unknown_length(lost: str | int) -> None:
    async def check(bus: EventBus) -> None:
        inspect(bus, *range(10))
        boot = bus.id_of(0).partition(".")[0]
        event_id = f"{boot}.{'9' * 30}" if lost == 9 else str(lost).format(boot=boot)
        stream = bus.subscribe(event_id)
        [gap, state] = await read(stream)
        assert (gap[0], gap[2]) == ("gap", {"since": None})
        assert gap[1] == state[1] == f"{boot}.10"
        inspect(bus, 10)
        assert await ids_of(stream, 1) == ["10"]

    with_bus(check, remembered=5)


def test_exactly_what_is_remembered_is_replayed() -> None:
    async def check(bus: EventBus) -> None:
        inspect(bus, *range(10))
        boot = bus.id_of(0).partition(".")[0]
        oldest, older = bus.subscribe(f"{boot}.5"), bus.subscribe(f"{boot}.4")
        assert await ids_of(oldest, 5) == ["5", "6", "7", "8", "9"]
        assert (await read(older))[0][0] == "gap"

    with_bus(check, remembered=5)


def test_a_stream_of_some_names_does_not_fall_behind_the_others() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None, ["model"])
        await read(stream)
        for _ in range(5):
            inspect(bus, *range(8))  # in the end four times what is remembered
            blocks = await stream.read(0.15)
            assert blocks is not None
            assert told(blocks) == []
        assert f"id: {bus.id_of(40)}\n" in blocks.decode()
        bus.publish("model", {"name": "flange"})
        assert [(name, data) for name, _, data in await read(stream)] == [
            ("model", {"name": "flange"})
        ]
        bus.change_status("ready")
        assert [name for name, _, _ in await read(stream)] == ["state"]

    with_bus(check, remembered=10)


def test_a_slow_reader_is_told_since_when_it_misses_events() -> None:
    drops: list[None] = []

    async def check(bus: EventBus) -> None:
        slow, quick = bus.subscribe(None), bus.subscribe(None)
        await read(slow)
        await read(quick)
        before = datetime.now(UTC)
        inspect(bus, *range(100))
        assert len(await ids_of(quick, 100)) == 100
        await asyncio.sleep(0.15)  # `slow` is still writing
        assert len(await ids_of(slow, 100)) == 100  # as many may wait
        between = datetime.now(UTC)
        inspect(bus, *range(100, 201))
        assert len(await ids_of(quick, 101)) == 101
        await asyncio.sleep(0.15)
        [gap, state] = await read(slow)
        assert gap[0] == "gap"
        assert before < datetime.fromisoformat(gap[2]["since"]) <= between
        assert state[0] == "state"
        assert len(drops) == 1
        inspect(bus, 201)
        assert await ids_of(slow, 1) == await ids_of(quick, 1) == ["201"]

    with_bus(check, dropped=lambda: drops.append(None))


def test_a_burst_is_no_slow_reader() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None)
        await read(stream)
        reading = asyncio.create_task(ids_of(stream, 1500))
        await asyncio.sleep(0)
        inspect(bus, *range(1500))
        assert await reading == [str(n) for n in range(1500)]

    with_bus(check)


def test_events_of_a_busy_line_are_sent_together() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None)
        await read(stream)
        inspect(bus, 0)
        started, reads, seen = time.monotonic(), 0, 0
        while time.monotonic() < started + 0.5:
            inspect(bus, reads)
            seen += len(await read(stream))
            reads += 1
        assert seen >= reads
        assert reads <= 8

    with_bus(check)


def test_as_many_streams_as_may_be() -> None:
    async def check(bus: EventBus) -> None:
        streams = [bus.subscribe(None) for _ in range(3)]
        with pytest.raises(TooManyStreams, match="MASKLINE_MAX_EVENT_STREAMS") as caught:
            bus.subscribe(None)
        assert caught.value.retry_after_s > 0
        streams[1].close()
        streams[1].close()  # again changes nothing
        assert bus.streams == 2
        bus.subscribe(None)
        assert await streams[1].read(1.0) is None

    with_bus(check, most_streams=3)


def test_threads_publish_in_their_order_and_lose_nothing() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None)
        await read(stream)

        def publish(first: int) -> None:
            for number in range(first, first + 300):
                bus.publish("job", {"id": number})

        threads = [threading.Thread(target=publish, args=(1000 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        seen: list[Told] = []
        while len(seen) < 1200:
            seen += await read(stream)
        for thread in threads:
            thread.join()
        numbers = [data["id"] for _, _, data in seen]
        assert sorted(numbers) == sorted(1000 * n + k for n in range(4) for k in range(300))
        for first in range(0, 4000, 1000):
            of_thread = [n for n in numbers if first <= n < first + 300]
            assert of_thread == sorted(of_thread)
        positions = [int(event_id.partition(".")[2]) for _, event_id, _ in seen]
        assert positions == list(range(1, 1201))

    with_bus(check)


def test_a_thread_that_outlives_the_loop_publishes_to_nobody() -> None:
    async def make() -> EventBus:
        return EventBus(most_streams=1)

    bus = asyncio.run(make())
    thread = threading.Thread(target=bus.publish, args=("job", {}))
    thread.start()
    thread.join()
    assert bus.number == 0


def test_a_drain_tells_and_ends_every_stream_and_lets_none_begin() -> None:
    async def check(bus: EventBus) -> None:
        bus.change_status("ready")
        streams = [bus.subscribe(None, ["model"]) for _ in range(32)]
        for stream in streams:
            await read(stream)
        reading = [asyncio.create_task(read(stream, 10)) for stream in streams]
        late = streams.pop()
        reading.pop().cancel()
        await asyncio.sleep(0)
        started = time.monotonic()
        bus.change_status("draining")
        inspect(bus, *range(200))  # parts in flight are finished
        for events in await asyncio.gather(*reading):
            assert ("state", {"status": "draining"}) in [(name, data) for name, _, data in events]
        assert [await stream.read(10) for stream in streams] == [None] * 31
        assert time.monotonic() - started < 0.3
        assert await late.read(10) is not None
        assert await late.read(10) is None
        with pytest.raises(NotReady):
            bus.subscribe(None)
        bus.change_status("ready")
        assert bus.is_draining

    with_bus(check)


def test_what_is_written_is_one_line_of_json_whatever_it_holds() -> None:
    async def check(bus: EventBus) -> None:
        stream = bus.subscribe(None)
        await read(stream)
        moment = datetime(2026, 3, 1, 6, tzinfo=UTC)
        camera = "a\r\n\ndata: b\u2028"
        bus.publish("job", {"camera": camera, "loss": float("nan"), "at": moment})
        bus.publish("model", {"name": "\udcff"})
        [(_, _, first), (_, _, second)] = await read(stream)
        assert first == {"camera": camera, "loss": None, "at": "2026-03-01T06:00:00Z"}
        assert second == {"name": "\udcff"}
        with pytest.raises(ValueError, match="no event; there are: inspection"):
            bus.publish("inspections", {})

    with_bus(check)


@pytest.mark.parametrize("listeners", [0, 32])
def test_publishing_costs_the_line_microseconds(listeners: int) -> None:
    async def check(bus: EventBus) -> None:
        streams = [bus.subscribe(None) for _ in range(listeners)]
        for stream in streams:
            await read(stream)
        data = {"result_id": "0" * 32, "score": 1.5, "verdict": "OK", "regions": 0, "lot": None}
        rounds = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(200):
                bus.publish("inspection", data)
            rounds.append((time.perf_counter() - started) / 200)
        assert min(rounds) < 30e-6  # 6 µs on a quiet machine

    with_bus(check)
