"""A wall open for an hour of a simulated line: memory of the browser's page and of the service.

    python -m bench.wall maskline-demo/models/flange maskline-demo/parts/test --minutes 60

Debian's Chromium shows the wall on a big screen while parts come from several cameras. Exits with 1
when the second half holds more than the first, or when the page complains.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx2
from playwright.sync_api import CDPSession, sync_playwright

from bench.local import start_service
from training.progress import SHOWN

_CAMERAS = ("left", "right", "top")
_EVERY_S = 10.0
# What the last quarter may hold more than the second: so many times, or so many more.
_GROWTH = (1.05, 10.0)
_QUARTERS = 4


@dataclass(slots=True)
class Watched:
    """Megabytes of the page's heap and of the service, by time; what the page complained of."""

    heap: list[float] = field(default_factory=list)
    nodes: list[float] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    parts: int = 0


def main() -> None:
    """Watch, and print what was held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("parts", type=Path, help="pictures, in folders or not")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2.0, help="parts a second")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    images = [path for path in sorted(options.parts.rglob("*")) if path.suffix in {".png", ".jpg"}]
    with tempfile.TemporaryDirectory() as folder:
        process, url = start_service(
            options.model,
            MASKLINE_LOG_LEVEL="warning",
            MASKLINE_RECORD_DIR=folder,
            MASKLINE_KEEP="all",
        )
        try:
            watched = watch(
                url,
                images,
                pid=process.pid,
                seconds=60 * options.minutes,
                rate=options.rate,
                chromium=options.chromium,
            )
        finally:
            process.terminate()
            process.wait(60)
    failures = [*watched.complaints]
    for name in ("heap", "nodes", "service"):
        before, after = ends(getattr(watched, name))
        print(f"{name:8} second quarter {before:8.1f}, last quarter {after:8.1f}")
        if after > max(_GROWTH[0] * before, before + _GROWTH[1]):
            failures.append(f"{name} grew from {before:.1f} to {after:.1f}")
    print(f"{watched.parts} parts shown")
    for failure in failures[:20]:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last quarter; the first is the start."""
    if len(values) < 2 * _QUARTERS:
        raise SystemExit("too short to say whether memory is flat")
    quarter = len(values) // _QUARTERS
    return statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])


def watch(
    url: str, images: Sequence[Path], *, pid: int, seconds: float, rate: float, chromium: str
) -> Watched:
    """Show the wall while parts come."""
    watched = Watched()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.on("console", lambda message: watched.complaints.append(message.text))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.goto(f"{url}/ui/#/wall?big=1")
        session = page.context.new_cdp_session(page)
        for _ in _line(url, images, seconds=seconds, rate=rate):
            watched.parts += 1
            page.wait_for_timeout(1)  # lets the browser's messages in
            if watched.parts % max(1, round(rate * _EVERY_S)) == 0:
                _measure(watched, session, pid)
        browser.close()
    return watched


def _line(url: str, images: Sequence[Path], *, seconds: float, rate: float) -> Iterator[None]:
    until, due = time.monotonic() + seconds, time.monotonic()
    with (
        httpx2.Client(timeout=60) as client,
        SHOWN.bar("wall", total=round(seconds * rate), unit="part") as bar,
    ):
        for number, image in enumerate(cycle(images)):
            if time.monotonic() > until:
                return
            query = {"camera": _CAMERAS[number % len(_CAMERAS)], "part_id": f"W-{number}"}
            client.post(f"{url}/score", params=query, content=image.read_bytes()).raise_for_status()
            bar.update(1)
            yield
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))


def _measure(watched: Watched, session: CDPSession, pid: int) -> None:
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    counters = session.send("Memory.getDOMCounters")
    watched.heap.append(usage["usedSize"] / 1e6)
    watched.nodes.append(counters["nodes"])
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    [resident] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    watched.service.append(int(resident.split()[1]) / 1e3)


if __name__ == "__main__":
    main()
