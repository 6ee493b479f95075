"""Serving beside other servers: the same model, decoder and images behind each, on loopback.

    python -m bench.serving maskline-demo/models/flange --servers maskline,litserve,ray,bentoml

Rounds are interleaved (raw loop, then each server, then again), so that a noisy machine is noisy
for all; the table has medians over rounds and each server's share of the raw loop of its own round.
The raw loop is as many loops at once as Maskline computes batches at once, and peers get as many
workers. Images are JPEGs of 640 × 480. The client shares the cores with each server alike.
`maskline fp32` is `maskline raw` with `MASKLINE_PRECISION=fp32`.
"""

import argparse
import asyncio
import contextlib
import io
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly.bundle import load_bundle
from anomaly.device import usable_cores
from bench.load import Load, Target, closed, leave, metric, opened
from bench.local import free_port
from bench.scorer import BATCH, LANES, THREADS, Scorer, make_free
from bench.servers import NAMES

_PATHS = {
    "maskline": ("/score?heatmap=none", "multipart"),
    "maskline raw": ("/score?heatmap=none", "raw"),
    "maskline fp32": ("/score?heatmap=none", "raw"),
    "litserve": ("/predict", "multipart"),
    "ray": ("/", "multipart"),
    "bentoml": ("/score", "base64"),
}
_ENVIRONMENT = {"maskline fp32": {"MASKLINE_PRECISION": "fp32"}}
_READY = "ready"
_FULL = 8  # connections that keep it busy and wait for less than any sensible limit
_START_S = 180.0
_WARM_S = 3.0
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One server in one round at one number of connections."""

    server: str
    connections: int
    load: Load
    share: float  # of the raw loop in the same round
    cpu_ms: float  # of the server's processes, for each answer
    megabytes: float


def main() -> None:
    """Run the benchmark and print its tables."""
    options = _options()
    images = pictures(32)
    print(f"{usable_cores()} cores, {options.rounds} rounds of {options.seconds:g} s, medians\n")
    measured: list[Measured] = []
    raws = []
    for _ in range(options.rounds):
        raw = raw_rate(options.model, images, options.seconds, free=options.free)
        raws.append(raw)
        for server in options.servers:
            measured += _round(server, options, images, raw)
    print(
        f"raw: {LANES} loop(s) at once of {THREADS} thread(s), batches of {BATCH}: "
        f"{statistics.median(raws):.1f} images/s\n"
    )
    print(table(measured))
    if options.open:
        print("\n" + _open_loop(options, images))
        print("\n" + _leaving(options, images))


def raw_rate(model: Path, images: Sequence[bytes], seconds: float, *, free: bool) -> float:
    """Images a second of decoding and scoring in batches, without a server.

    In processes of their own, that start together when all are ready.
    """
    arguments = [sys.executable, "-m", "bench.serving", str(model), "--raw-only"]
    arguments += ["--seconds", str(seconds), *(["--free"] if free else [])]
    loops = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(LANES)
    ]
    for loop in loops:
        assert loop.stdout is not None
        while loop.stdout.readline().strip() != _READY:
            if loop.poll() is not None:
                raise SystemExit(f"the raw loop failed; try `{' '.join(arguments)}`")
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write("go\n")
        loop.stdin.flush()
    return sum(float(loop.communicate()[0]) for loop in loops)


def _raw_only(model: Path, images: Sequence[bytes], seconds: float, *, free: bool) -> float:
    scorer = Scorer(load_bundle(model, check_golden=False))
    if free:
        make_free(scorer._detector)
    batch = [images[i % len(images)] for i in range(BATCH)]
    scorer.run([scorer.decode(image) for image in batch])
    print(_READY, flush=True)
    sys.stdin.readline()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        scorer.run([scorer.decode(image) for image in batch])
        count += len(batch)
    return count / (time.perf_counter() - started)


def _round(
    server: str, options: argparse.Namespace, images: Sequence[bytes], raw: float
) -> list[Measured]:
    path, form = _PATHS[server]
    measured = []
    with running(server, options.model, free=options.free) as (process, url):
        target = Target(url + path, form)
        asyncio.run(closed(target, images, connections=4, seconds=_WARM_S))
        for connections in options.connections:
            before = cpu_seconds(process.pid)
            load = asyncio.run(
                closed(target, images, connections=connections, seconds=options.seconds)
            )
            spent = 1000 * (cpu_seconds(process.pid) - before) / max(1, len(load.latencies))
            share = load.rate / raw
            megabytes = memory_mb(process.pid)
            measured.append(Measured(server, connections, load, share, spent, megabytes))
    return measured


@contextlib.contextmanager
def running(
    server: str, model: Path, *, free: bool
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a server and wait until it answers; at the end kill it and all that it started."""
    port = free_port()
    name = server.partition(" ")[0]
    arguments = [sys.executable, "-m", "bench.servers", name, str(model), str(port)]
    process = subprocess.Popen(
        [*arguments, *(["--free"] if free else [])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | _ENVIRONMENT.get(server, {}),
        start_new_session=True,
    )
    path, form = _PATHS[server]
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + _START_S
        while not asyncio.run(_answers(Target(url + path, form))):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{server} did not start; try `{' '.join(arguments)}`")
            time.sleep(0.5)
        yield process, url
    finally:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


async def _answers(target: Target) -> bool:
    load = await closed(target, pictures(1), connections=1, seconds=0.01)
    return bool(load.latencies)


def _open_loop(options: argparse.Namespace, images: Sequence[bytes]) -> str:
    """Maskline alone at shares of its own capacity: what is answered, how soon, what is refused."""
    lines = [
        "| open loop | offered/s | goodput/s | p50 ms | p99 ms | refused | refusal p99 ms | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    path, form = _PATHS["maskline raw"]
    with running("maskline", options.model, free=options.free) as (process, url):
        target = Target(url + path, form)
        full = asyncio.run(closed(target, images, connections=_FULL, seconds=options.seconds)).rate
        for share in options.open:
            before = memory_mb(process.pid)
            load = asyncio.run(
                opened(
                    target,
                    images,
                    rate=share * full,
                    seconds=options.open_seconds,
                    lead=options.open_lead,
                )
            )
            refusal = np.quantile(load.refusals, 0.99) * 1000 if load.refusals else float("nan")
            refused = ", ".join(f"{n} × {k}" for k, n in load.statuses.items()) or "0"
            lines.append(
                f"| {share:g} of {full:.1f}/s | {share * full:.1f} | {load.rate:.1f} | "
                f"{load.quantile(0.5):.0f} | {load.quantile(0.99):.0f} | {refused} | "
                f"{refusal:.0f} | {before:.0f} → {memory_mb(process.pid):.0f} |"
            )
    return "\n".join(lines)


async def _left(url: str, target: Target, images: Sequence[bytes]) -> tuple[float, int]:
    """Images computed, and answers that came in time, while 64 clients leave."""
    counted = "maskline_batch_size_sum"
    await closed(target, images, connections=4, seconds=_WARM_S)
    before = await metric(url, counted)
    answered = await leave(target, images, connections=64, after=0.5)
    await asyncio.sleep(_SETTLE_S)
    return await metric(url, counted) - before, answered


def _leaving(options: argparse.Namespace, images: Sequence[bytes]) -> str:
    """64 clients that hang up after half a second: how much is computed for nobody."""
    path, form = _PATHS["maskline raw"]
    with running("maskline", options.model, free=options.free) as (_, url):
        computed, answered = asyncio.run(_left(url, Target(url + path, form), images))
    return (
        f"64 clients that leave after 0.5 s: {answered} answered, {computed - answered:.0f} images "
        "computed for nobody"
    )


def table(measured: Sequence[Measured]) -> str:
    """Lay out medians over rounds, a line for each server and number of connections."""
    lines = [
        "| server | connections | images/s | of raw | p50 ms | p95 ms | p99 ms | CPU-ms | MB | "
        "errors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, int], list[Measured]] = {}
    for cell in measured:
        cells.setdefault((cell.server, cell.connections), []).append(cell)
    for (server, connections), rounds in cells.items():
        median = _medians(rounds)
        errors = sum(
            (cell.load.statuses for cell in rounds), start=rounds[0].load.statuses.__class__()
        )
        errors_text = ", ".join(f"{n} × {k}" for k, n in errors.items()) or "0"
        lines.append(
            f"| {server} | {connections} | {median['rate']:.1f} | {median['share']:.2f} | "
            f"{median['p50']:.1f} | {median['p95']:.1f} | {median['p99']:.1f} | "
            f"{median['cpu_ms']:.2f} | {median['megabytes']:.0f} | {errors_text} |"
        )
    return "\n".join(lines)


def _medians(rounds: Sequence[Measured]) -> dict[str, float]:
    rows: list[dict[str, Any]] = [
        {
            "rate": round_.load.rate,
            "share": round_.share,
            "p50": round_.load.quantile(0.5),
            "p95": round_.load.quantile(0.95),
            "p99": round_.load.quantile(0.99),
            "cpu_ms": round_.cpu_ms,
            "megabytes": round_.megabytes,
        }
        for round_ in rounds
    ]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def pictures(count: int) -> list[bytes]:
    """Return JPEGs of 640 × 480, about 100 KB each: smooth structure with noise on it."""
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    return encoded


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    pids = [pid]
    for parent in pids:
        pids += children.get(parent, [])
    return pids


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living descendants."""
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def memory_mb(pid: int) -> float:
    """Proportional resident memory of a process and its descendants."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1000


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--servers", type=_servers, default=["maskline", "maskline raw"])
    parser.add_argument("--connections", type=_numbers, default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--open", type=_shares, default=[], help="shares of capacity: 0.5,0.9,1.5")
    parser.add_argument("--open-seconds", type=float, default=60.0)
    parser.add_argument(
        "--open-lead", type=float, default=0.0, help="seconds of the same load before it is counted"
    )
    parser.add_argument("--free", action="store_true", help="around a model that costs nothing")
    parser.add_argument("--raw-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.raw_only:
        print(_raw_only(options.model, pictures(32), options.seconds, free=options.free))
        sys.exit()
    return options


def _servers(text: str) -> list[str]:
    names = [*_PATHS] if text == "all" else [part.strip() for part in text.split(",")]
    if unknown := {name.partition(" ")[0] for name in names} - set(NAMES):
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; known: {list(_PATHS)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
