"""The service under load."""

import asyncio
import re

from bench.gpu.check import Check, Rows

_SUMS = re.compile(
    r"maskline_(stage_duration_seconds|batch_size)_(sum|count)"
    r'\{.*?(?:stage="(\w+)")?\}'
)


def serving(check: Check) -> Rows:
    """Load the service with JPEGs of 640 × 480 over some connections."""
    from bench.load import Target, closed
    from bench.serving import pictures, running

    images = pictures(32)
    seconds = 2.0 if check.small else 6.0
    with running("maskline raw", check.model, free=False) as (_, url):
        target = Target(url + "/score?heatmap=none", "raw")
        asyncio.run(closed(target, images, connections=8, seconds=2.0))
        for connections in (1, 32) if check.small else (1, 8, 32):
            before = asyncio.run(_stages(url))
            load = asyncio.run(closed(target, images, connections=connections, seconds=seconds))
            after = asyncio.run(_stages(url))
            yield {
                "connections": connections,
                "images/s": load.rate,
                "p50 ms": load.quantile(0.5),
                "p99 ms": load.quantile(0.99),
                "errors": sum(load.statuses.values()),
                **_between(before, after),
            }


async def _stages(url: str) -> dict[str, float]:
    """Read the sums and counts of the stages' durations and of the batches' sizes."""
    import aiohttp

    sums: dict[str, float] = {}
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            name, _, value = line.rpartition(" ")
            if match := _SUMS.match(name):
                key = f"{match[3] or 'batch'} {match[2]}"
                sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def _between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Mean milliseconds of each stage, and mean batch, between two readings."""
    means = {}
    for key in after:
        stage, _, kind = key.rpartition(" ")
        count = after.get(f"{stage} count", 0) - before.get(f"{stage} count", 0)
        if kind == "sum" and count > 0:
            mean = (after[key] - before.get(key, 0)) / count
            means["mean batch" if stage == "batch" else f"{stage} ms"] = (
                mean if stage == "batch" else 1000 * mean
            )
    return means
