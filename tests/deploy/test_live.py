"""A real Prometheus watches a real service: `make test-monitoring`.

Two thousand parts from three cameras: an hour's history in half a minute, a burst of defects on one
camera, one that goes silent, and more images than can be inspected. Times in rules and panels are
divided by thirty.
"""

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest

from bench.local import free_port
from deploy.boards import DASHBOARDS, plots
from deploy.pictures import draw
from tests.conftest import normal_pixels, planted, png
from tests.service.test_run import RealServer

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yml"
FASTER = 30
CAMERAS = ("left", "right", "top")
PARTS = 2000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs Debian's package prometheus"
    ),
]


def faster(text: str) -> str:
    """Divide every duration in a range, an offset, a `for` and the named time of silence."""

    def shorter(found: re.Match[str]) -> str:
        seconds = max(1, int(found[2]) * _UNITS[found[3]] // FASTER)
        return f"{found[1]}{seconds}s"

    text = re.sub(r"(\[|offset |for: )(\d+)([smhd])\b", shorter, text)
    return text.replace("vector(60)", f"vector({60 // FASTER})")


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} never answered")


@dataclass(slots=True)
class Line:
    """What was posted, and what came of it."""

    url: str
    posted: int = 0
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)

    async def post(self, client: httpx2.AsyncClient, camera: str, part: bytes) -> None:
        self.posted += 1
        answer = await client.post(f"{self.url}/score?camera={camera}&heatmap=none", content=part)
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            self.verdicts[camera, answer.json()["verdict"]] += 1

    async def run(self) -> None:
        good = [png(normal_pixels(8000 + i)) for i in range(300)]
        bad = [png(planted(normal_pixels(8400 + i), 60, 40, 8)) for i in range(50)]
        async with httpx2.AsyncClient(timeout=30) as client:
            started = time.monotonic()
            for number in range(900):  # history: every camera, 25 parts a second
                await self.post(client, CAMERAS[number % 3], good[number // 3 % 300])
                await asyncio.sleep(max(0.0, started + number / 25 - time.monotonic()))
            for number in range(
                200
            ):  # a burst of defects on the left; the top sends nothing any more
                left = bad[number % 50] if number % 4 == 0 else good[number]
                await self.post(client, "left", left)
                await self.post(client, "right", good[number])
                await asyncio.sleep(max(0.0, started + 36 + number / 16 - time.monotonic()))
            overload = [
                self.keep_posting(client, good, Random(seed), time.monotonic() + 12)
                for seed in range(32)
            ]
            await asyncio.gather(*overload)

    async def keep_posting(
        self, client: httpx2.AsyncClient, parts: list[bytes], random: Random, until: float
    ) -> None:
        while time.monotonic() < until or self.posted < PARTS:
            await self.post(client, "right", random.choice(parts))
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Watched:
    """What happened, and the Prometheus that saw it."""

    line: Line
    url: str
    ended: float  # nothing was posted after this; alerts that this raises are ignored

    def query(self, expr: str) -> list[dict[str, Any]]:
        params = {"query": expr, "time": self.ended}
        answer = httpx2.get(f"{self.url}/api/v1/query", params=params).json()
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@pytest.fixture(scope="module")
def watched(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("monitoring")
    service = RealServer(
        tiny_folder,
        MASKLINE_RECORD="on",
        MASKLINE_RECORD_DIR=str(folder / "results"),
        MASKLINE_MAX_QUEUE_SIZE="4",
        MASKLINE_MAX_BATCH_ITEMS="4",  # one image: an overloaded queue stays full
        MASKLINE_TORCH_THREADS="1",
        MASKLINE_LOG_LEVEL="warning",
    )
    own = free_port()
    (folder / "rules.yml").write_text(faster(RULES.read_text()))
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        "  - job_name: maskline\n"
        f"    static_configs: [{{targets: ['{service.url.partition('//')[2]}']}}]\n"
    )
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=error",
        ]
    )
    wait_for(f"http://127.0.0.1:{own}/-/ready")
    try:
        line = Line(service.url)
        asyncio.run(line.run())
        time.sleep(1.5)  # a last scrape
        yield Watched(line, f"http://127.0.0.1:{own}", time.time())
    finally:
        service.process.terminate()
        prometheus.terminate()
        service.stop()
        prometheus.wait(30)


def test_two_thousand_parts_were_posted_and_some_refused(watched: Watched) -> None:
    assert watched.line.posted >= PARTS
    assert set(watched.line.statuses) == {200, 429}


def test_the_counts_in_prometheus_are_those_of_the_answers(watched: Watched) -> None:
    found = watched.query("sum by (camera, verdict) (maskline_inspections_total)")
    counts = {(o["metric"]["camera"], o["metric"]["verdict"]): int(o["value"][1]) for o in found}
    assert counts == dict(watched.line.verdicts)
    refused = watched.query('sum(maskline_rejected_total{reason="queue_full"})')
    assert int(refused[0]["value"][1]) == watched.line.statuses[429]
    assert counts["left", "NG"] >= 50


def test_every_panels_query_returns_data(watched: Watched) -> None:
    for board, plot in plots():
        for query in plot.queries:
            if "DCGM" in query.expr:  # there is no GPU here
                continue
            expr = faster(query.expr).replace("$model", ".*").replace("$camera", ".*")
            assert watched.query(expr), f"{board}: {plot.title}: {expr}"


def test_the_dashboards_are_drawn_from_what_prometheus_has(
    watched: Watched, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("MASKLINE_PICTURES", tmp_path))

    def ask(expr: str) -> list[dict[str, Any]]:
        asked = faster(expr).replace("$model", ".*").replace("$camera", ".*")
        window = {"start": watched.ended - 62, "end": watched.ended, "step": 0.5}
        answer = httpx2.get(
            f"{watched.url}/api/v1/query_range", params={"query": asked} | window
        ).json()
        assert answer["status"] == "success", answer
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    for board in DASHBOARDS:
        draw(board, ask, watched.ended, folder / f"{board}.jpg")
        assert (folder / f"{board}.jpg").stat().st_size > 20_000


def test_every_rule_can_be_evaluated(watched: Watched) -> None:
    groups = httpx2.get(f"{watched.url}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 16
    assert {rule["health"] for rule in rules} == {"ok"}


def test_the_right_alerts_fire_and_no_other(watched: Watched) -> None:
    firing = 'max_over_time(ALERTS{alertstate="firing"}[1h])'
    fired = watched.query(f"max by (alertname, camera, finding) ({firing})")
    found = {
        (o["metric"]["alertname"], o["metric"].get("camera"), o["metric"].get("finding"))
        for o in fired
    }
    wanted = {
        ("AnomalyRateHigh", "left", None),
        ("CameraSilent", "top", None),
        ("DriftFound", "left", "parts"),
        ("Rejecting", None, None),
    }
    # While only the right one sends, the left one is silent as well; and how full a queue of four
    # is when it happens to be looked at depends on the machine.
    possible = {("CameraSilent", "left", None), ("QueueSaturated", None, None)}
    assert wanted <= found <= wanted | possible
