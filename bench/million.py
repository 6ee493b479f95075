"""A million small images in shards, read once by `maskline pretrain`: start-up, rate, memory.

    python -m bench.million --images 1000000 --folder /tmp/million

The images are drawn by as many processes as there are cores, unless the folder has them from
before. With `--files` they are written as files as well, and what a start costs with and without
their listing is printed. Exits with 1 when the start takes longer than ten seconds or memory grows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import webdataset
from tqdm import tqdm

from bench.soak import held as held_by
from training.index import indexed

_SIDE = 32
_PER_SHARD = 10_000
_BATCH = 512
_START_S = 10.0
_GROWTH = 1.05  # memory of the last quarter may be so many times that of the second
_SETTINGS = (
    "model.preprocess.canvas=32",
    "model.target.patch=8",
    "model.mae.width=64",
    "model.mae.depth=2",
    "model.mae.heads=2",
    "model.mae.decoder_width=64",
    "model.mae.decoder_depth=1",
    "model.mae.decoder_heads=2",
    f"optimiser.batch_size={_BATCH}",
    "optimiser.learning_rate=1e-3",
    "run.compile=false",
    "run.log_every=1",
    "run.tensorboard=false",
    "run.checkpoint_every=100000",
)


def main() -> None:
    """Write the shards, stream them once, print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="needs 2.5 GB for a million")
    parser.add_argument("--files", action="store_true", help="4 GB more")
    options = parser.parse_args()
    shards = options.folder / "shards"
    write(shards, options.images // _PER_SHARD)
    failures = streamed(shards, options)
    if options.files:
        failures += listed(shards, options.folder)
    print("\n".join(failures) or "bounded memory, and a start below ten seconds")
    sys.exit(1 if failures else 0)


def write(shards: Path, count: int) -> None:
    """Draw the images, ten thousand a shard."""
    shards.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(count) if not (shards / f"{n:06d}.tar").is_file()]
    with ProcessPoolExecutor() as pool:
        done = pool.map(partial(write_shard, shards), missing)
        for _ in tqdm(done, total=len(missing), desc="drawing", unit="shard", disable=None):
            pass


def write_shard(folder: Path, number: int) -> None:
    """Draw one shard; every image is another."""
    generator = np.random.default_rng(number)
    staging = folder / f".{number:06d}.part"
    with webdataset.TarWriter(str(staging)) as writer:
        for index in range(_PER_SHARD):
            coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
            image = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85)
            writer.write({"__key__": f"{number:06d}-{index:05d}", "jpg": image})
    staging.rename(folder / f"{number:06d}.tar")


def streamed(shards: Path, options: argparse.Namespace) -> list[str]:
    """Pretrain for one epoch and watch; returns what is wrong."""
    steps = options.images // _BATCH
    run = options.folder / "model.run"
    log = run / "log.jsonl"
    log.unlink(missing_ok=True)
    options_ = [
        f"--set={s}" for s in (*_SETTINGS, f"optimiser.steps={steps}", "optimiser.warmup_steps=50")
    ]
    command = [
        sys.executable,
        "-m",
        "maskline",
        "pretrain",
        str(shards),
        "--recipe",
        "pretrain-pixels",
    ]
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "--set=run.workers=2", *options_, "--out", str(options.folder / "model")],
        stderr=(options.folder / "stderr.txt").open("wb"),
    )
    held, first_s = watch(process, run, started)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    quarters = [statistics.median(q) for q in np.array_split(np.array(held), 4)]
    print(
        f"{steps * _BATCH:,} of {options.images:,} images in {time.monotonic() - started:.0f} s, "
        f"{rows[-1]['images_per_s']:.0f} images/s, {rows[-1]['data_wait']:.0%} of the time "
        "waiting for "
        f"data; first step done after {first_s:.1f} s; MB held by all its processes, by quarter: "
        + ", ".join(f"{quarter:.0f}" for quarter in quarters)
    )
    failures = [] if process.returncode == 0 else [f"it ended with {process.returncode}"]
    if first_s > _START_S:
        failures.append(f"the first step was done after {first_s:.1f} s")
    if quarters[3] > _GROWTH * quarters[1]:
        failures.append(f"memory grew from {quarters[1]:.0f} to {quarters[3]:.0f} MB")
    return failures


def watch(
    process: "subprocess.Popen[bytes]", run: Path, started: float
) -> tuple[list[float], float]:
    """Return the memory held every second, in MB, and when the first step was done, in seconds."""
    held: list[float] = []
    first_s = float("inf")
    log = run / "log.jsonl"
    while process.poll() is None:
        if first_s == float("inf") and log.is_file() and log.stat().st_size:
            first_s = time.monotonic() - started
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            held.append(sum(held_by(pid).megabytes for pid in (process.pid, *map(int, children))))
        except (OSError, StopIteration):  # one of them ended just now
            continue
        time.sleep(0.2 if first_s == float("inf") else 1.0)
    return held, first_s


def listed(shards: Path, folder: Path) -> list[str]:
    """Write the images as files, list them, and start again from the listing."""
    files = folder / "files"
    for shard in tqdm(sorted(shards.glob("*.tar")), desc="unpacking", unit="shard", disable=None):
        shard_folder = files / shard.stem
        if not shard_folder.is_dir():
            shard_folder.mkdir(parents=True)
            subprocess.run(["tar", "-xf", str(shard), "-C", str(shard_folder)], check=True)
    run = folder / "files.run"
    started = time.monotonic()
    first = indexed([files], run, again=True)
    listing_s = time.monotonic() - started
    started = time.monotonic()
    listed_again = indexed([files], run)
    drawn_paths = [
        listed_again[i].path
        for i in np.random.default_rng(0).permutation(len(listed_again))[:_BATCH]
    ]
    start_s = time.monotonic() - started
    print(
        f"{len(first):,} files: listed in {listing_s:.1f} s once; {start_s:.2f} s at the next "
        f"start, with the paths of a random batch of {len(drawn_paths)}"
    )
    return [] if start_s < _START_S else [f"the second start took {start_s:.1f} s"]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
