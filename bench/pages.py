"""What open pages cost the line: `/score` with 32 streams of events open, and with none, in turn.

    python -m bench.pages maskline-demo/models/flange --rounds 5 --seconds 20

One server, which stores nothing; each round measures both, the order alternates. The streams are
read by a process of its own, which shares the cores with the server as pages elsewhere would not.
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly.device import usable_cores
from bench.load import Load, Target, closed
from bench.serving import cpu_seconds, pictures, running
from bench.watch import READY

_WARM_S = 3.0
_LONGEST_S = 30.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement: how many streams were open, and how many inspections they were told of."""

    streams: int
    load: Load
    events: int
    cpu_ms: float  # of the server, for each answer


def main() -> None:
    """Measure and print the table."""
    options = _options()
    print(
        f"{usable_cores()} cores, {options.connections} connections, {options.rounds} rounds of "
        f"{options.seconds:g} s\n"
    )
    print(table(_measure(options)))


def _measure(options: argparse.Namespace) -> list[Turn]:
    images, turns = pictures(32), []
    with running("maskline raw", options.model, free=options.free) as (process, url):
        target = Target(f"{url}/score?heatmap=none", "raw")
        asyncio.run(closed(target, images, connections=4, seconds=_WARM_S))
        for number in range(options.rounds):
            order = (0, options.streams) if number % 2 == 0 else (options.streams, 0)
            for streams in order:
                spent = cpu_seconds(process.pid)
                counts: list[int] = []
                with pages(url, streams, counts):
                    load = asyncio.run(
                        closed(
                            target,
                            images,
                            connections=options.connections,
                            seconds=options.seconds,
                        )
                    )
                spent = cpu_seconds(process.pid) - spent
                answered = max(1, len(load.latencies))
                turns.append(Turn(streams, load, sum(counts), 1000 * spent / answered))
    return turns


@contextlib.contextmanager
def pages(url: str, streams: int, counts: list[int]) -> Iterator[None]:
    """Keep so many streams open; at the end append how many inspections all were told of."""
    if not streams:
        yield
        return
    command = [sys.executable, "-m", "bench.watch", url, str(streams)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        if reader.stdout.readline().strip() != READY:
            raise SystemExit(f"the streams did not open; try `{' '.join(command)}`")
        yield
        counts.append(int(reader.communicate("", timeout=_LONGEST_S)[0]))


def table(turns: Sequence[Turn]) -> str:
    """Lay out medians over rounds, and what the streams change in each round."""
    lines = [
        "| streams | images/s | p50 ms | p99 ms | CPU-ms | told of each inspection | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    arms = {turn.streams: [t for t in turns if t.streams == turn.streams] for turn in turns}
    for streams, arm in sorted(arms.items()):
        median = statistics.median
        answered = sum(len(turn.load.latencies) for turn in arm)
        lines.append(
            f"| {streams} | {median(turn.load.rate for turn in arm):.1f} | "
            f"{median(turn.load.quantile(0.5) for turn in arm):.1f} | "
            f"{median(turn.load.quantile(0.99) for turn in arm):.1f} | "
            f"{median(turn.cpu_ms for turn in arm):.2f} | "
            f"{sum(turn.events for turn in arm) / max(1, answered):.2f} | "
            f"{sum(turn.load.statuses.total() for turn in arm)} |"
        )
    without, beside = (arms[streams] for streams in sorted(arms))
    for share in (0.5, 0.99):
        changes = [
            100 * (b.load.quantile(share) / a.load.quantile(share) - 1)
            for a, b in zip(without, beside, strict=True)
        ]
        lines.append(
            f"\np{100 * share:.0f} with streams, by round: "
            f"{', '.join(f'{change:+.1f} %' for change in changes)}; "
            f"median {statistics.median(changes):+.1f} %"
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--free", action="store_true", help="around a model that costs nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
