"""From feedback to names, while the line runs: `python -m bench.naming MODEL DATA`.

Labelled parts are posted to a real service that keeps them; then one after the other gets its
folder's name by feedback, while a camera goes on posting. It prints how long after each answer the
service named by what it had just been told, how the posted parts fared, and what a restart knows.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from bench.local import start_service
from training.data import open_dataset

_SLOWEST_S = 30.0


def main() -> None:
    """Print a line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--feedback", type=int, default=40)
    parser.add_argument("--rate", type=float, default=4.0, help="parts a second meanwhile")
    options = parser.parse_args()
    samples = [s for s in open_dataset(options.data, near_copies=False).samples if not s.is_normal]
    by_kind: dict[str, list[bytes]] = {}
    for sample in samples:
        by_kind.setdefault(sample.label, []).append(sample.path.read_bytes())
    parts = [
        (kind, images[i])
        for i in range(max(map(len, by_kind.values())))
        for kind, images in by_kind.items()
        if i < len(images)
    ][: options.feedback]
    with tempfile.TemporaryDirectory() as record:
        figures = _first(options, parts, record)
        process, url = _start(options.model, record)
        until = time.monotonic() + _SLOWEST_S
        while _version(url, options.model) != figures["version"] and time.monotonic() < until:
            time.sleep(0.02)
        figures["restart_knows"] = _version(url, options.model) == figures["version"]
        _stop(process)
    print(json.dumps(figures))


def _start(model: Path, record: str) -> tuple[subprocess.Popen[bytes], str]:
    return start_service(
        model,
        MASKLINE_RECORD_DIR=record,
        MASKLINE_KEEP="all",
        MASKLINE_LOG_LEVEL="warning",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)


def _first(
    options: argparse.Namespace, parts: list[tuple[str, bytes]], record: str
) -> dict[str, Any]:
    process, url = _start(options.model, record)
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    line = threading.Thread(
        target=_line,
        args=(url, parts, options.rate),
        kwargs={"statuses": statuses, "stop": stop},
    )
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            ids = [
                client.post("/score?heatmap=none", content=image).json()["result_id"]
                for _, image in parts
            ]
            time.sleep(2.0)  # until they are stored
            line.start()
            waits = [
                _taught(client, options.model, result_id, kind)
                for result_id, (kind, _) in zip(ids, parts, strict=True)
            ]
        known = [wait for wait in waits if wait is not None]
        return {
            "feedback": len(waits),
            "taught": len(known),
            "median_s": round(statistics.median(known), 3),
            "slowest_s": round(max(known), 3),
            "posted": dict(statuses),
            "version": _version(url, options.model),
        }
    finally:
        stop.set()
        if line.ident is not None:
            line.join()
        _stop(process)


def _taught(client: httpx2.Client, model: Path, result_id: str, kind: str) -> float | None:
    """Seconds until a name counts; None where the part teaches nothing, as nothing was found."""
    before = _version(str(client.base_url), model)
    verdict = client.get(f"/v1/results/{result_id}").json()["verdict"]
    said = {"kind": "confirmed_defect" if verdict == "NG" else "missed_defect", "defect": kind}
    client.post(f"/v1/results/{result_id}/feedback", json=said).raise_for_status()
    started = time.perf_counter()
    while time.perf_counter() - started < (_SLOWEST_S if verdict == "NG" else 0):
        if _version(str(client.base_url), model) != before:
            return time.perf_counter() - started
        time.sleep(0.01)
    return None


def _version(url: str, model: Path) -> str | None:
    answer = httpx2.get(f"{url.rstrip('/')}/v1/models/{model.resolve().name}/kinds", timeout=60)
    version: str | None = answer.json()["version"]
    return version


def _line(
    url: str,
    parts: list[tuple[str, bytes]],
    rate: float,
    *,
    statuses: Counter[int],
    stop: threading.Event,
) -> None:
    with httpx2.Client(base_url=url, timeout=60) as client:
        number = 0
        while not stop.wait(1 / rate):
            image = parts[number % len(parts)][1]
            statuses[client.post("/score?heatmap=none", content=image).status_code] += 1
            number += 1


if __name__ == "__main__":
    main()
