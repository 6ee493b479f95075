"""A lean client: closed loop (N connections, each asks again) and open loop (N a second)."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np


@dataclass(frozen=True, slots=True)
class Target:
    """Where and in which form images are sent: `raw`, `multipart` or `base64` (JSON)."""

    url: str
    form: str = "multipart"


@dataclass(slots=True)
class Load:
    """What a load gave: seconds of each good answer, other statuses and how soon they came."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """A quantile of the good answers' latency in milliseconds."""
        return float(np.quantile(self.latencies, share)) * 1000 if self.latencies else float("nan")


async def closed(
    target: Target, images: Sequence[bytes], *, connections: int, seconds: float
) -> Load:
    """Ask over so many connections for a while, each as soon as it has its answer."""
    load, until = Load(), time.perf_counter() + seconds
    async with _session(connections) as session:

        async def ask(first: int) -> None:
            index = first
            while time.perf_counter() < until:
                await _ask(session, target, images[index % len(images)], load)
                index += connections

        started = time.perf_counter()
        await asyncio.gather(*(ask(i) for i in range(connections)))
        load.seconds = time.perf_counter() - started
    return load


async def opened(
    target: Target,
    images: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    lead: float = 0.0,
    seed: int = 0,
) -> Load:
    """Ask at random moments, so many times a second on average, whether or not answers come.

    Requests of the first `lead` seconds are not counted: a load's beginning differs from the rest.
    """
    load, uncounted, generator = Load(), Load(), np.random.default_rng(seed)
    gaps = generator.exponential(1 / rate, round(rate * (lead + seconds)))
    async with _session(0) as session:
        started, due = time.perf_counter(), 0.0
        tasks = []
        for index, gap in enumerate(gaps):
            due += gap
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            image = images[index % len(images)]
            counted = load if due >= lead else uncounted
            tasks.append(asyncio.create_task(_ask(session, target, image, counted)))
        await asyncio.gather(*tasks)
        load.seconds = time.perf_counter() - started - lead
    return load


async def leave(target: Target, images: Sequence[bytes], *, connections: int, after: float) -> int:
    """Ask over so many connections and hang up after a while; how many had their answer by then."""
    load = Load()
    async with _session(connections) as session:
        tasks = [
            asyncio.create_task(_ask(session, target, images[i % len(images)], load))
            for i in range(connections)
        ]
        await asyncio.sleep(after)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return len(load.latencies)


async def metric(url: str, name: str) -> float:
    """Sum a Prometheus metric over its labels."""
    async with _session(1) as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until a service says that it is ready, two minutes at most."""
    for _ in range(1200):
        try:
            async with session.get(f"{url}/health/ready") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the service did not become ready; see its log")


def _session(limit: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=limit, force_close=False)
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=120), auto_decompress=False
    )


async def _ask(session: aiohttp.ClientSession, target: Target, image: bytes, load: Load) -> None:
    started = time.perf_counter()
    body, headers = packed(image, target.form)
    try:
        async with session.post(target.url, data=body, headers=headers) as answer:
            await answer.read()
            status = str(answer.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        status = type(error).__name__
    seconds_taken = time.perf_counter() - started
    if status == "200":
        load.latencies.append(seconds_taken)
    else:
        load.statuses[status] += 1
        load.refusals.append(seconds_taken)


def packed(image: bytes, form: str) -> tuple[bytes, dict[str, str]]:
    """Pack an image into a body; by hand, so that the client stays lean."""
    if form == "raw":
        return image, {"Content-Type": "image/jpeg"}
    if form == "base64":
        import base64

        text = base64.b64encode(image)
        return b'{"images":["' + text + b'"]}', {"Content-Type": "application/json"}
    head = (
        b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n"
    )
    return head + image + b"\r\n--cut--\r\n", {"Content-Type": "multipart/form-data; boundary=cut"}
