"""A training that is killed again and again, against one that never was.

    python -m bench.killed --times 10

`maskline train` on drawn parts, SIGKILL at a random moment, --resume, ten times over; the
checkpoint must be readable every time, and in the end weights and losses must be those of the
unbroken run, bit for bit. Exits with 1 where they are not.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm import tqdm

from training.synthetic import PartsConfig, write_parts

_SETTINGS = (
    "optimiser.steps=400",
    "run.checkpoint_every=5",
    "run.log_every=5",
    "run.tensorboard=false",
    "run.export=never",
    'model.scoring.families=["masked"]',
    "model.mae.width=64",
    "model.mae.depth=2",
    "model.mae.heads=2",
    "model.mae.decoder_width=64",
    "model.mae.decoder_heads=2",
    "plan.canvases=[]",
)


def main() -> None:
    """Print what happened; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = PartsConfig(train=24, validation=4, test_good=0, test_each=0)
        for _ in write_parts(folder / "parts", parts):
            pass
        settings = [*_SETTINGS, *options.set]
        _start(folder, "unbroken", settings).wait()
        steps = killed(folder, settings, options)
        failures = compared(folder)
    print(f"killed {options.times} times; the checkpoint held these steps: {steps}")
    print("\n".join(failures) or "weights and losses are those of the unbroken run, bit for bit")
    sys.exit(1 if failures else 0)


def killed(folder: Path, settings: list[str], options: argparse.Namespace) -> list[int]:
    """Kill and resume; returns the step of the checkpoint after each kill."""
    generator = np.random.default_rng(options.seed)
    steps: list[int] = []
    run = folder / "killed.run"
    for _ in tqdm(range(options.times), unit="kill", disable=None):
        before = steps[-1] if steps else 0
        process = _start(folder, "killed", settings)
        # At a moment drawn between the first new checkpoint and a few dozen steps later.
        while _step(run) <= before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(float(generator.uniform(0, 0.7)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(_step(run))
    _start(folder, "killed", settings).wait()
    return steps


def _start(folder: Path, name: str, settings: list[str]) -> "subprocess.Popen[bytes]":
    settings_ = [f"--set={setting}" for setting in settings]
    command = [sys.executable, "-m", "maskline", "train", str(folder / "parts"), "--resume"]
    return subprocess.Popen(
        [*command, "--no-calibrate", "--out", str(folder / name), *settings_],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _step(run: Path) -> int:
    """The step of a run's checkpoint; 0 without one. Raises where it cannot be read."""
    path = run / "checkpoint.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def compared(folder: Path) -> list[str]:
    """Say what differs between the two runs."""
    differences = []
    unbroken, killed = (
        load_file(folder / f"{n}/model.safetensors") for n in ("unbroken", "killed")
    )
    differences += [
        f"{name} differs" for name, value in unbroken.items() if not value.equal(killed[name])
    ]
    logs = [(folder / f"{n}.run/log.jsonl").read_text() for n in ("unbroken", "killed")]
    losses = [
        [(row["step"], row["loss"]) for row in map(json.loads, log.splitlines())] for log in logs
    ]
    if losses[0] != losses[1]:
        differences.append(f"losses differ: {len(losses[0])} and {len(losses[1])} rows")
    return differences


if __name__ == "__main__":
    main()
