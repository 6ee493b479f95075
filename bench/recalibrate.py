"""A calibration on stored parts while the line runs: `python -m bench.recalibrate MODEL DATA`.

The good images of the set are posted to a real service that keeps them; then the model is
calibrated on what is stored and the new calibration activated, with parts posted all the while. It
prints how long that took, and how the posted parts fared.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench.load import ready
from bench.local import free_port
from training.data import open_dataset


def main() -> None:
    """Run it and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--normals", type=int, default=200)
    options = parser.parse_args()
    samples = [s for s in open_dataset(options.data).samples if s.is_normal and s.split != "train"]
    images = [sample.path.read_bytes() for sample in samples[: options.normals]]
    folder = Path(tempfile.mkdtemp(prefix="maskline-recalibrate-"))
    shutil.copytree(options.model, folder / "models/model")
    port = free_port()
    command = [sys.executable, "-m", "maskline", "serve", "--no-auth", "--port", str(port)]
    variables = {"MASKLINE_RECORD_DIR": str(folder / "results"), "MASKLINE_KEEP": "all"}
    variables |= {"MASKLINE_LOG_LEVEL": "warning"}
    server = subprocess.Popen(
        [*command, "--models", str(folder / "models")], env=os.environ | variables
    )
    try:
        print(asyncio.run(_drive(f"http://127.0.0.1:{port}", images)))
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder)


async def _drive(url: str, images: Sequence[bytes]) -> str:
    statuses: Counter[int] = Counter()
    async with aiohttp.ClientSession() as session:
        await ready(session, url)
        for number, image in enumerate(images):
            await _post(session, f"{url}/score?part_id={number}&heatmap=none", image, statuses)
        await asyncio.sleep(2)  # until they are stored and their images are kept
        stop = asyncio.Event()

        async def line() -> None:
            while not stop.is_set():
                await _post(session, f"{url}/score?heatmap=none", images[0], statuses)

        running = asyncio.create_task(line())
        started = time.perf_counter()
        address = f"{url}/v1/models/model:calibrate?activate=true"
        async with session.post(address, json={}) as answer:
            done: dict[str, Any] = await answer.json()
        seconds = time.perf_counter() - started
        stop.set()
        await running
    if "normals" not in done:
        return f"refused: {done}"
    return (
        f"calibrated on {done['normals']} stored parts, compared on {done['review']['compared']}, "
        f"activated: {done['activated']}, in {seconds:.1f} s; threshold "
        f"{done['statement']['before']['threshold']:.3f} → {done['statement']['threshold']:.3f}; "
        f"answers meanwhile and before: {dict(statuses)}"
    )


async def _post(
    session: aiohttp.ClientSession, url: str, image: bytes, statuses: Counter[int]
) -> None:
    async with session.post(url, data=image, headers={"Content-Type": "image/jpeg"}) as answer:
        await answer.read()
        statuses[answer.status] += 1


if __name__ == "__main__":
    main()
