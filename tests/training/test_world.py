"""Two processes over gloo against one: the same images, masks and, within rounding, losses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from anomaly.bundle import load_bundle
from tests.conftest import TINY
from training import loop
from training.config import load_recipe
from training.data import open_dataset
from training.errors import DataError
from training.progress import QUIET
from training.world import ALONE, World

STEPS = ("optimiser.steps=12", "run.log_every=1", "run.checkpoint_every=4", "run.workers=1")


def command(processes: int) -> list[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launch, "-m", "maskline"]


def train(processes: int, data: Path, out: Path, *changes: str, resume: bool = False) -> None:
    told = [f"--set={change}" for change in (*TINY, *STEPS, *changes)]
    done = subprocess.run(
        [*command(processes), "train", str(data), "--out", str(out), *told]
        + (["--resume"] if resume else []),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def alone(data: Path, run: Path, *changes: str) -> torch.Tensor:
    """Train in this process; returns the autoencoder's weights."""
    config = load_recipe("default", (*TINY, *STEPS, *changes))
    model, _ = loop.train(open_dataset(data).select("train"), config, run, progress=QUIET)
    return weights(model.mae)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def losses(out: Path) -> list[float]:
    log = (out.with_name(f"{out.name}.run") / "log.jsonl").read_text()
    return [json.loads(line)["loss"] for line in log.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [("augment.copies=1",), ("augment.fresh=true",)])
def test_two_processes_learn_what_one_learns(
    tiny_data: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    one = alone(tiny_data, tmp_path / "one.run", *changes)
    train(2, tiny_data, tmp_path / "two", *changes)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    bundle = load_bundle(tmp_path / "two")
    torch.testing.assert_close(weights(bundle.model.mae), one, atol=2e-4, rtol=1e-3)
    assert bundle.card["training"]["processes"] == 2
    assert bundle.calibration is not None
    left = sorted(path.name for path in (tmp_path / "two.run").iterdir())
    assert left == ["checkpoint.safetensors", "log.jsonl", "plan.json"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_processes(
    tiny_data: Path, tmp_path: Path, before: int, after: int
) -> None:
    longer = ("optimiser.steps=60", "run.checkpoint_every=10")
    alone(tiny_data, tmp_path / "whole.run", *longer)
    kill_after_a_checkpoint(before, tiny_data, tmp_path / "cut", *longer)
    train(after, tiny_data, tmp_path / "cut", *longer, resume=True)
    assert len(losses(tmp_path / "cut")) == 60
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-2)


def kill_after_a_checkpoint(processes: int, data: Path, out: Path, *changes: str) -> None:
    told = [f"--set={change}" for change in (*TINY, *STEPS, *changes)]
    process = subprocess.Popen(
        [*command(processes), "train", str(data), "--out", str(out), *told],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoint = out.with_name(f"{out.name}.run") / "checkpoint.safetensors"
    while not checkpoint.is_file():
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(losses(out)) < 60


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    shares = [World(rank, 3).share(12) for rank in range(3)]
    assert [list(range(12))[share] for share in shares] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    with pytest.raises(DataError, match="multiple of 3"):
        World(0, 3).share(10)
    assert ALONE.is_first
    assert ALONE.from_first(7) == 7
