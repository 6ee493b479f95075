"""How fast a recipe trains here, against what the machine can do at most, and where the rest goes.

    python -m bench.training ../data/magnetic_tile --recipe default

Two limits are measured in the same run: the product of the largest matrices that are worth it, and
decoding alone. On a CPU, steps in float32 and in the precision that it would take. Then the
recipe's own steps: with cached tokens, and with images decoded and sent
through the backbone at every step. A profile of the cached steps says what takes their time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from anomaly.device import usable_cores
from training.config import TrainConfig, load_recipe
from training.data import Sample, open_dataset
from training.decoded import Decoded, decoded_once
from training.images import ImageRequest, reading
from training.loop import new_model, take_step
from training.meter import Meter, feature_flops, finish, matrix_rate, training_flops
from training.progress import SHOWN
from training.tokens import ImageTokens, TokenSetup, prepare_tokens
from training.trainer import Trainer, new_trainer, precision_of
from training.world import ALONE

_SIDES = (1024, 2048, 4096, 8192)
_WORKERS = (0, 1, 2, 4, 8)
_WARM_UP = 3
GROUPS = {
    "matrix products": (
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "linear",
        "scaled_dot",
        "attention",
        "conv",
    ),
    "normalisation": ("norm",),
    "activation": ("gelu", "softmax", "silu", "relu", "hardtanh", "clamp"),
    "gathering and copying": ("gather", "index", "copy", "cat", "scatter", "clone", "contiguous"),
    "optimiser and average": ("foreach", "adam", "lerp", "fused"),
}


def main() -> None:
    """Print the two limits, the rates of training, and the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="of each way to train")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    config = load_recipe(options.recipe, options.set)
    samples = open_dataset(options.data).normal("train")[: options.images]
    device = new_model(config).target.mean.device
    print(f"recipe {options.recipe}, {usable_cores()} cores, torch {torch.__version__}, {device}\n")
    peak = largest_rate(device, config)
    decoding(samples, config)
    if device.type == "cpu":
        precisions(config, steps=options.steps, rounds=options.rounds)
    for fresh in (False, True):
        augment = replace(config.augment, fresh=fresh)
        trained(samples, replace(config, augment=augment), options, peak)


def largest_rate(device: torch.device, config: TrainConfig) -> float:
    """Print the rate of square products by their side; returns the largest."""
    dtype = precision_of(config, device)
    sides = _SIDES if device.type == "cuda" else _SIDES[:3]
    rates = {side: matrix_rate(device, dtype, side) for side in sides}
    rates_text = ", ".join(f"{side}²: {rate / 1e9:.0f}" for side, rate in rates.items())
    print(f"matrix products in {dtype}, GFLOP/s: {rates_text}")
    return max(rates.values())


def precisions(config: TrainConfig, *, steps: int, rounds: int) -> None:
    """Print images a second of steps on random tokens, in float32 and as `auto` has it, in turn."""
    trainers: dict[str, Trainer] = {}
    cpu = replace(config.run, device="cpu")
    runs = {"fp32": replace(cpu, precision="fp32"), "auto": replace(cpu, precision="auto")}
    for precision, run in runs.items():
        recipe = replace(config, run=run)
        model = new_model(recipe)
        model.mae.train()
        trainers[precision] = new_trainer(recipe, model, _Random(), ALONE)
    model = trainers["auto"].model
    shape = (config.optimiser.batch_size, model.window.length, model.target.token_dim)
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def rate(trainer: Trainer, count: int) -> float:
        durations = []
        for step in range(count):
            started = time.perf_counter()
            take_step(trainer, step, tokens)
            durations.append(time.perf_counter() - started)
        return len(tokens) / statistics.median(durations)

    for trainer in trainers.values():
        rate(trainer, _WARM_UP)
    ratios = []
    for _ in range(rounds):
        single, chosen_rate = (rate(trainers[name], steps) for name in ("fp32", "auto"))
        ratios.append(chosen_rate / single)
        print(f"steps, images/s: float32 {single:.1f}, auto {chosen_rate:.1f}")
    print(f"auto is {statistics.median(ratios):.2f} times as fast, median of {rounds} rounds\n")


class _Random:
    """Stands where a source of tokens would: these steps are given theirs."""

    def steps(self, first: int) -> Iterator[torch.Tensor]:
        raise NotImplementedError

    def names(self, step: int) -> list[str]:
        return []


def decoding(samples: list[Sample], config: TrainConfig) -> None:
    """Print images a second by number of workers: decoded and placed, then read once more."""
    batch = config.optimiser.batch_size
    steps = [
        [ImageRequest((step * batch + i) % len(samples), None) for i in range(batch)]
        for step in range(-(-2 * len(samples) // batch))
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        decoded_once(len(samples), config, Path(folder), ALONE) as decoded_images,
    ):
        ways: dict[str, Decoded | None] = {"decoding": None}
        if decoded_images is not None:
            ways["decoded before"] = decoded_images
            for _ in reading(samples, config, steps, pin=False, decoded=decoded_images):
                pass  # now they are there
        for name, decoded in ways.items():
            rates = []
            for workers in [w for w in _WORKERS if w <= usable_cores()]:
                with_workers = replace(config, run=replace(config.run, workers=workers))
                loaded = reading(samples, with_workers, steps, pin=False, decoded=decoded)
                next(loaded)  # the processes have started
                started = time.perf_counter()
                for _ in loaded:
                    pass
                rate = batch * (len(steps) - 1) / (time.perf_counter() - started)
                rates.append(f"{workers} workers: {rate:.0f}")
            side = config.model.preprocess.canvas
            print(f"{name}, to {side} px, images/s: {', '.join(rates)}")
    print()


def trained(
    samples: list[Sample], config: TrainConfig, options: argparse.Namespace, peak: float
) -> None:
    """Train for a few steps and print their rates; with cached tokens, also their profile."""
    fresh = config.augment.fresh
    measured = rates_of(samples, config, steps=options.steps, rounds=options.rounds, peak=peak)
    medians, flops = measured.rates, measured.flops
    backbone = feature_flops(measured.trainer.model, config)
    print(
        f"{'fresh' if fresh else 'cached'}: {medians['images_per_s']:.1f} images/s, median of "
        f"{options.rounds} × {options.steps} steps of {config.optimiser.batch_size}; "
        f"{flops / 1e9:.2f} GFLOP an image ({backbone / 1e9:.2f} forward through the backbone); "
        f"{medians['matrix_share']:.0%} of the matrix rate, {medians['data_wait']:.0%} of the time "
        "waiting for data" + (" and backbone" if fresh else "")
    )
    if not fresh:
        print(profiled(measured.trainer, measured.batches, measured.step, flops=flops, peak=peak))


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over rounds of a recipe's steps, and the run as they left it."""

    rates: dict[str, float]
    flops: float  # of an image
    trainer: Trainer
    batches: Iterator[torch.Tensor]
    step: int


def rates_of(
    samples: list[Sample], config: TrainConfig, *, steps: int, rounds: int, peak: float
) -> Measured:
    """Take so many steps in each round, after a few that are not counted."""
    last = 2 * (_WARM_UP + steps) * rounds
    config = replace(config, optimiser=replace(config.optimiser, steps=last))
    trainer = _trainer(samples, config)
    flops = training_flops(trainer.model, config, cached=not config.augment.fresh)
    batches, step, round_rates = trainer.source.steps(0), 0, []
    for _ in range(rounds):
        for _ in range(_WARM_UP):
            take_step(trainer, step, next(batches))
            step += 1
        finish(trainer.device)
        meter = Meter(config.optimiser.batch_size, flops, peak)
        for _ in range(steps):
            with meter.waiting():
                tokens = next(batches)
            take_step(trainer, step, tokens)
            meter.stepped()
            step += 1
        finish(trainer.device)
        round_rates.append(meter.rates())
    medians = {
        key: statistics.median(round_[key] for round_ in round_rates) for key in round_rates[0]
    }
    return Measured(medians, flops, trainer, batches, step)


def _trainer(samples: list[Sample], config: TrainConfig) -> Trainer:
    model = new_model(config)
    setup = TokenSetup(model.target, model.window, Path(), ALONE)
    source: ImageTokens = prepare_tokens(samples, config, setup, SHOWN)
    model.mae.train()
    return new_trainer(config, model, source, ALONE)


def profiled(
    trainer: Trainer, batches: Iterator[torch.Tensor], first: int, *, flops: float, peak: float
) -> str:
    """Say what ten steps spend their time on, and at what rate their matrix products run."""
    cuda = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    steps = 10
    with profile(activities=activities) as profiler:
        for step in range(first, first + steps):
            take_step(trainer, step, next(batches))
        finish(trainer.device)
    device_type = DeviceType.CUDA if cuda else DeviceType.CPU
    spent: dict[str, float] = dict.fromkeys([*GROUPS, "the rest"], 0.0)
    for event in profiler.key_averages():
        if event.device_type == device_type:
            own_time = event.self_device_time_total if cuda else event.self_cpu_time_total
            spent[group_of(event.key)] += own_time / 1e6
    total = sum(spent.values())
    work = flops * trainer.config.optimiser.batch_size * steps
    rate = work / spent["matrix products"]
    lines = [f"| {name} | {seconds / total:.0%} |" for name, seconds in spent.items()]
    return "\n".join(
        [
            f"matrix products alone: {rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the largest\n",
            "| of the profiled time | |\n|---|---|",
            *lines,
            "",
        ]
    )


def group_of(operation: str) -> str:
    """Return which group an operation belongs to."""
    name = operation.lower()
    for group, parts in GROUPS.items():
        if any(part in name for part in parts):
            return group
    return "the rest"


if __name__ == "__main__":
    main()
