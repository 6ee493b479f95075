"""Parts posted while the database is away and the server is killed: `python -m bench.outage MODEL`.

The model costs nothing, so that only the server and its record are measured. The database goes away
for a while in the middle, the server is killed (SIGKILL) and started again near the end, and each
part is sent again until it is answered. Afterwards each answered result must be in the store
exactly once.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from sqlalchemy import create_engine, text

from bench.load import ready
from bench.local import free_port
from bench.postgres import Postgres, binaries
from bench.serving import pictures

_SETTLE_S = 60.0


@dataclass(slots=True)
class Posted:
    """When each answer came, how long it took, and the result's id."""

    moments: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    failed: int = 0

    def p99(self, since: float, until: float) -> float:
        """99th percentile in milliseconds of the answers in a span of time."""
        within = [
            s for at, s in zip(self.moments, self.seconds, strict=True) if since <= at < until
        ]
        return 1000 * float(np.quantile(within, 0.99))


class Locked:
    """SQLite has no server to stop: another process holds the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def stop(self) -> None:
        """Take the only right to write."""
        self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        self._connection.execute("BEGIN IMMEDIATE")

    def start(self) -> None:
        """Give it back."""
        self._connection.execute("ROLLBACK")
        self._connection.close()


class Server:
    """The service in a process that can be killed."""

    def __init__(self, model: Path, folder: Path, url: str, log: Path) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "bench.servers", "maskline", str(model)]
        self._command += [str(self.port), "--free"]
        record = {"MASKLINE_RECORD": "on", "MASKLINE_RECORD_DIR": str(folder)}
        self._environment = os.environ | record | {"MASKLINE_DATABASE_URL": url}
        self._log = log

    def start(self) -> None:
        """Start it; it is ready some seconds later."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Kill it without a warning."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it in an orderly way."""
        self._process.terminate()
        self._process.wait(60)


def main() -> None:
    """Run it on one or both kinds of database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=80.0, help="parts a second")
    parser.add_argument("--away", type=float, default=60.0, help="seconds without the database")
    options = parser.parse_args()
    print(
        "| database | answered | in the store | missing | twice | p99 before, away, ratio | "
        "sent again |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in options.databases.split(","):
        folder = Path(tempfile.mkdtemp(prefix="maskline-outage-"))
        try:
            print(_run(kind, folder, options), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _run(kind: str, folder: Path, options: argparse.Namespace) -> str:
    record = folder / "results"
    record.mkdir()
    if kind == "sqlite":
        url = f"sqlite:///{record / 'results.db'}"
        database: Locked | Postgres = Locked(record / "results.db")
    else:
        binaries_folder = binaries()
        if binaries_folder is None:
            raise SystemExit("there is no PostgreSQL here: apt install postgresql")
        (folder / "postgres").mkdir()
        folder.chmod(0o755)
        database = Postgres(binaries_folder, folder / "postgres")
        url = database.new_database("maskline")
    server = Server(options.model, record, url, folder / "server.log")
    server.start()
    posted, away = asyncio.run(_drive(server, database, options))
    stored = _stored(url, len(posted.results))
    server.stop()
    if isinstance(database, Postgres):
        database.stop()
    return _row(kind, posted, stored, away)


async def _drive(
    server: Server, database: Locked | Postgres, options: argparse.Namespace
) -> tuple[Posted, tuple[float, float]]:
    """Post parts at a steady rate; stop the database for a while, then kill the server."""
    posted = Posted()
    images = pictures(32)
    address = f"http://127.0.0.1:{server.port}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await ready(session, address)
        for number in range(200):  # warm
            await _post(session, address, images[number % 32], number=-1, posted=Posted())
        started = time.perf_counter()
        span = options.parts / options.rate
        leaves = started + 0.2 * span
        away = (leaves, leaves + options.away)
        events = [
            asyncio.create_task(_at(away[0], database.stop)),
            asyncio.create_task(_at(away[1], database.start)),
            asyncio.create_task(_killed(session, address, server, started + 0.97 * span)),
        ]
        tasks = []
        for number in range(options.parts):
            await asyncio.sleep(max(0.0, started + number / options.rate - time.perf_counter()))
            image = images[number % 32]
            tasks.append(
                asyncio.create_task(_post(session, address, image, number=number, posted=posted))
            )
        await asyncio.gather(*events, *tasks)
    return posted, away


async def _at(moment: float, event: Callable[[], None]) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))
    await asyncio.to_thread(event)


async def _killed(
    session: aiohttp.ClientSession, address: str, server: Server, moment: float
) -> None:
    await _at(moment, server.kill)
    server.start()
    await ready(session, address)


async def _post(
    session: aiohttp.ClientSession, address: str, image: bytes, *, number: int, posted: Posted
) -> None:
    """Send a part again until it is answered."""
    url = f"{address}/score?heatmap=none&part_id={number}"
    headers = {"Content-Type": "image/jpeg"}
    while True:
        started = time.perf_counter()
        try:
            async with session.post(url, data=image, headers=headers) as answer:
                body = await answer.json()
                if answer.status == 200:
                    posted.moments.append(started)
                    posted.seconds.append(time.perf_counter() - started)
                    posted.results.append(body["result_id"])
                    return
        except (aiohttp.ClientError, TimeoutError):
            pass
        posted.failed += 1
        await asyncio.sleep(0.2)


def _stored(url: str, at_least: int) -> list[str]:
    """Read the store once it has taken over all waiting rows."""
    engine, until = create_engine(url), time.monotonic() + _SETTLE_S
    while True:
        with engine.connect() as connection:
            rows = [
                str(row[0]) for row in connection.execute(text("SELECT result_id FROM results"))
            ]
        if len(rows) >= at_least or time.monotonic() > until:
            engine.dispose()
            return rows
        time.sleep(1)


def _row(kind: str, posted: Posted, stored: list[str], away: tuple[float, float]) -> str:
    stored_ids = set(stored)
    missing = sum(result not in stored_ids for result in posted.results)
    twice = len(stored) - len(stored_ids)
    before, during = posted.p99(0, away[0]), posted.p99(*away)
    latency = f"{before:.1f} ms, {during:.1f} ms, {during / before:.2f}"
    cells = [len(posted.results), len(stored), missing, twice, latency, posted.failed]
    return f"| {kind} | " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
