import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from PIL import Image

pytest.importorskip("aiohttp")

from aiohttp import web

from bench.load import Load, Target, closed, opened, packed
from bench.serving import Measured, pictures, table


def against_every_second_refused(ask: Callable[[Target], Awaitable[Load]]) -> Load:
    """Load a server that answers 429 and 200 in turn."""

    async def run() -> Load:
        count = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal count
            count += 1
            await request.read()
            return web.Response(status=429 if count % 2 else 200)

        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        found = await ask(Target(f"http://127.0.0.1:{port}/", "raw"))
        await runner.cleanup()
        return found

    return asyncio.run(run())


def test_a_closed_loop_counts_what_was_answered_and_refused() -> None:
    images = pictures(1)
    load = against_every_second_refused(
        lambda target: closed(target, images, connections=3, seconds=0.3)
    )
    assert load.statuses.keys() == {"429"}
    assert abs(len(load.latencies) - load.statuses["429"]) <= 1
    assert load.rate == pytest.approx(len(load.latencies) / load.seconds)
    assert load.quantile(0.5) <= load.quantile(0.99)


def test_an_open_loop_asks_at_its_rate_whatever_is_answered() -> None:
    images = pictures(1)
    load = against_every_second_refused(lambda target: opened(target, images, rate=100, seconds=1))
    assert len(load.latencies) + load.statuses["429"] == 100


def test_pictures_are_jpegs_of_the_usual_size() -> None:
    first, second = pictures(2)
    assert Image.open(io.BytesIO(first)).size == (640, 480)
    assert 60_000 < len(first) < 140_000
    assert first != second
    assert first in packed(first, "multipart")[0]


def test_the_table_has_medians_over_rounds_and_all_errors() -> None:
    rounds = [
        Measured("maskline", 8, Load(1.0, [0.01] * n, [], Counter({"429": 1})), n / 50, 1.0, 100)
        for n in (10, 30, 20)
    ]
    line = table(rounds).splitlines()[-1]
    assert line.startswith("| maskline | 8 | 20.0 | 0.40 | 10.0 |")
    assert line.endswith("| 3 × 429 |")
