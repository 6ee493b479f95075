"""Everything that is a function of the step alone, so that resuming needs no stored state."""

import math
from functools import lru_cache

import numpy as np
import torch

from training.config import ObjectiveConfig, OptimiserConfig


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """Linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    decay_steps = max(1, config.steps - config.warmup_steps)
    progress = (step - config.warmup_steps) / decay_steps
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def ema_decay(step: int, limit: float) -> float:
    """Decay of the weights' average: short at first, so that the start is forgotten."""
    return min(limit, (1 + step) / (10 + step))


def batch_indices(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Return which of `count` images step `step` sees: epochs of fresh permutations, end to end."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    return np.array(
        [_order(seed, int(e), count)[i] for e, i in zip(epochs, positions % count, strict=True)]
    )


@lru_cache(maxsize=2)  # a million indices take 20 ms to permute: not at every step
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 1, epoch)).permutation(count)


def step_generator(step: int, seed: int) -> torch.Generator:
    """Return the generator of a step's masks."""
    mixed = np.random.SeedSequence((seed, 2, step)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def draw_mask_ratio(config: ObjectiveConfig, generator: torch.Generator) -> float:
    """Draw a step's mask ratio uniformly."""
    low, high = config.mask_ratio
    return low + (high - low) * float(torch.rand((), generator=generator))


def mean_mask_ratio(config: ObjectiveConfig) -> float:
    """Return the mask ratio of the average step."""
    return sum(config.mask_ratio) / 2
