"""A service alone for an hour: mixed traffic, ever new versions, memory and files watched.

    python -m bench.soak maskline-demo/models/flange --minutes 60

Good and bad parts in every form, heatmaps, batches, damaged images, unknown models, deadlines that
cannot be kept, clients that leave, scrapes; at a rate that leaves the machine idle most of the
time. Exits with 1 when a request fails in a way it should not, or when the second half holds more
than the first.
"""

import argparse
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np

from anomaly.bundle import Bundle, load_bundle, save_bundle
from bench.decode import jpeg, picture
from bench.local import start_service
from training.progress import SHOWN, Progress

_SENDERS = 3
_EVERY_S = 5.0
# Freed memory is returned each minute: new versions once a minute would beat with that.
_SWAP_S = 37.0
# Memory of the second half may be so many times that of the first, or so many MB more.
_GROWTH = (1.03, 10.0)


@dataclass(frozen=True, slots=True)
class Held:
    """What the server's process holds."""

    megabytes: float
    files: int
    threads: int


@dataclass(slots=True)
class Seen:
    """What was answered and held."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)


def main() -> None:
    """Run the soak and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    options = parser.parse_args()
    seen = soak(options.model, 60 * options.minutes, options.rate)
    failures = [*seen.failures, *grown(seen.held)]
    print(report(seen))
    for failure in failures[:20]:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


def soak(model: Path, seconds: float, rate: float, *, progress: Progress = SHOWN) -> Seen:
    """Start a service and keep it busy."""
    bundle, seen = load_bundle(model, check_golden=False), Seen()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        save_bundle(bundle, models / "soak", "v1")
        process, url = start_service(
            models, MASKLINE_LOG_LEVEL="warning", MASKLINE_RECORD_DIR=f"{folder}/results"
        )
        try:
            _keep_busy(
                seen,
                _Traffic(url, models, bundle),
                process.pid,
                seconds=seconds,
                rate=rate,
                progress=progress,
            )
        finally:
            _stop(process, seen)
    return seen


def _stop(process: subprocess.Popen[bytes], seen: Seen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        if code := process.wait(60):
            seen.failures.append(f"the service exited with {code}")
    except subprocess.TimeoutExpired:
        process.kill()
        seen.failures.append("the service did not stop within a minute")


def _keep_busy(
    seen: Seen, traffic: "_Traffic", pid: int, *, seconds: float, rate: float, progress: Progress
) -> None:
    until = time.monotonic() + seconds
    senders = [
        threading.Thread(target=traffic.send, args=(seen, until, rate / _SENDERS, i), daemon=True)
        for i in range(_SENDERS)
    ]
    for sender in senders:
        sender.start()
    next_swap, version = time.monotonic() + _SWAP_S, 1
    with progress.bar("soak", total=round(seconds), unit="s") as bar:
        while (now := time.monotonic()) < until:
            if now >= next_swap:
                next_swap, version = now + _SWAP_S, version + 1
                traffic.swap(seen, f"v{version}")
            seen.held.append(held(pid))
            time.sleep(min(_EVERY_S, max(0.0, until - now)))
            bar.update(round(min(until, time.monotonic()) - until + seconds) - bar.done)
    for sender in senders:
        sender.join()


class _Traffic:
    """One request at a time of a kind drawn at random, and what may be answered to it."""

    def __init__(self, url: str, models: Path, bundle: Bundle) -> None:
        self._url, self._models, self._bundle = url, models, bundle
        self._good = [jpeg(picture(size), 90) for size in ((480, 640), (300, 200), (1944, 2592))]
        kinds: list[tuple[float, str, tuple[int, ...], Callable[[httpx2.Client, bytes], int]]] = [
            (0.4, "raw", (200,), self._raw),
            (0.12, "multipart", (200,), self._multipart),
            (0.08, "overlay", (200,), lambda c, i: self._raw(c, i, "?heatmap=overlay")),
            (0.05, "png heatmap", (200,), lambda c, i: self._raw(c, i, "?heatmap=png")),
            (0.05, "batch", (200,), self._batch),
            (0.1, "damaged", (400,), lambda c, i: self._raw(c, i[: len(i) // 2])),
            (0.04, "no image", (400, 415), lambda c, i: self._raw(c, b"no image" * 99)),
            (0.03, "too large", (413,), lambda c, i: self._raw(c, bytes(33 * 2**20))),
            (0.03, "unknown model", (404,), lambda c, i: self._raw(c, i, "?model=none")),
            (0.04, "deadline", (200, 429, 504), lambda c, i: self._raw(c, i, "?deadline_ms=20")),
            (0.03, "leaves", (0, 200), self._leave),
            (0.03, "metrics", (200,), lambda c, i: c.get("/metrics").status_code),
        ]
        self._kinds = kinds

    def send(self, seen: Seen, until: float, rate: float, seed: int) -> None:
        """Ask at random moments until the end."""
        generator = np.random.default_rng(seed)
        shares = np.array([kind[0] for kind in self._kinds])
        with httpx2.Client(base_url=self._url, timeout=30) as client:
            while time.monotonic() < until:
                _, name, allowed, ask = self._kinds[
                    generator.choice(len(shares), p=shares / shares.sum())
                ]
                image = self._good[generator.integers(len(self._good))]
                try:
                    status = ask(client, image)
                except httpx2.HTTPError as error:
                    seen.failures.append(f"{name}: {type(error).__name__} {error}")
                    continue
                seen.answers[f"{name} {status or 'gone'}"] += 1
                if status not in allowed:
                    seen.failures.append(f"{name}: answered {status}")
                time.sleep(float(generator.exponential(1 / rate)))

    def swap(self, seen: Seen, version: str) -> None:
        """Publish a version, load it and let it serve."""
        save_bundle(self._bundle, self._models / "soak", version)
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            for action in ("load", "activate"):
                try:
                    status = client.post(f"/v1/models/soak:{action}").status_code
                except httpx2.HTTPError as error:
                    seen.failures.append(f"{action} {version}: {type(error).__name__} {error}")
                    return
                seen.answers[f"{action} {status}"] += 1
                if status != 200:
                    seen.failures.append(f"{action} {version}: answered {status}")

    def _raw(self, client: httpx2.Client, image: bytes, query: str = "") -> int:
        return client.post(f"/score{query}", content=image).status_code

    def _multipart(self, client: httpx2.Client, image: bytes) -> int:
        return client.post("/score", files={"file": ("a.jpg", image, "image/jpeg")}).status_code

    def _batch(self, client: httpx2.Client, image: bytes) -> int:
        files = [("files", (f"{i}.jpg", image, "image/jpeg")) for i in range(4)]
        return client.post("/v1/score/batch", files=files).status_code

    def _leave(self, client: httpx2.Client, image: bytes) -> int:
        try:
            return httpx2.post(f"{self._url}/score", content=image, timeout=0.03).status_code
        except httpx2.TimeoutException:
            return 0


def held(pid: int) -> Held:
    """Read what a process holds: memory of its own, swapped out or not; files; threads.

    Not its share of mapped libraries: that grows when another process that maps them ends.
    """
    folder = Path(f"/proc/{pid}")
    lines = (folder / "smaps_rollup").read_text().splitlines()
    held_lines = [line for line in lines if line.startswith(("Anonymous:", "Swap:"))]
    kilobytes = sum(int(line.split()[1]) for line in held_lines)
    return Held(
        kilobytes / 1000,
        len(list((folder / "fd").iterdir())),
        len(list((folder / "task").iterdir())),
    )


def grown(held: list[Held]) -> list[str]:
    """Say of what the last quarter holds more than the second; the first is the start."""
    if len(held) < 8:
        return ["too short to say whether memory is flat"]
    second, last = _quarters(held)[1], _quarters(held)[3]
    factor, margin = _GROWTH
    complaints = []
    before, after = (
        statistics.median(sample_.megabytes for sample_ in part) for part in (second, last)
    )
    if after > max(factor * before, before + margin):
        complaints.append(f"memory grew from {before:.0f} to {after:.0f} MB")
    for name in ("files", "threads"):
        early, late = (
            statistics.median(getattr(sample_, name) for sample_ in p) for p in (second, last)
        )
        if late > early + 2:
            complaints.append(f"{name} grew from {early:g} to {late:g}")
    return complaints


def _quarters(held: list[Held]) -> list[list[Held]]:
    cuts = [round(i * len(held) / 4) for i in range(5)]
    return [held[a:b] for a, b in itertools.pairwise(cuts)]


def report(seen: Seen) -> str:
    """Lay out answers, and what was held in each quarter."""
    lines = [", ".join(f"{count} × {what}" for what, count in sorted(seen.answers.items())), ""]
    lines += ["| quarter | MB | least MB | files | threads |", "|---|---|---|---|---|"]
    for number, part in enumerate(_quarters(seen.held), start=1):
        cells = [
            f"{statistics.median(getattr(sample_, name) for sample_ in part):.0f}" if part else "-"
            for name in ("megabytes", "files", "threads")
        ]
        cells.insert(1, f"{min(sample_.megabytes for sample_ in part):.0f}" if part else "-")
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
