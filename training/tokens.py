"""Training tokens: computed once and cached, or fresh at every step.

Backbone features of a fixed set of variations never change, so they are computed once and kept as
float16. Where the recipe wants fresh variations, or the cache would not fit, images are decoded and
sent through the backbone at every step instead.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from anomaly.mae import take
from anomaly.preprocess import place
from anomaly.targets import Target
from anomaly.types import FloatArray, Grid
from anomaly.windows import random_places
from training.augment import vary
from training.config import TrainConfig
from training.data import Sample, read_images
from training.schedule import batch_indices

_log = logging.getLogger(__name__)
_STATISTICS_IMAGES = 512
_CHUNK = 8


class TokenSource(Protocol):
    """Gives step `step` its batch of standardised tokens, one random window of each image."""

    def batch(self, step: int) -> torch.Tensor:
        """Return (B, l, C) tokens of windows on the target's device."""
        ...

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Return all standardised tokens (N, L, C) of images by index, unvaried."""
        ...

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        ...


@dataclass(frozen=True, slots=True)
class Canvases:
    """Training images by index, decoded and placed; variation 0 is the image itself."""

    samples: Sequence[Sample]
    config: TrainConfig

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def load(self, indices: Sequence[int], variations: Sequence[int]) -> torch.Tensor:
        """Return (B, 3, S, S) float32 canvases in [0, 1]."""
        preprocess, threads = self.config.model.preprocess, self.config.run.workers
        chosen = [self.samples[i] for i in indices]
        read = read_images(chosen, canvas=preprocess.canvas, threads=threads)
        canvases = [place(image, preprocess)[0] for _, image in read]
        varied = [
            self._vary(canvas, index, variation)
            for canvas, index, variation in zip(canvases, indices, variations, strict=True)
        ]
        return torch.from_numpy(np.stack(varied)).permute(0, 3, 1, 2).contiguous()

    def _vary(self, canvas: FloatArray, index: int, variation: int) -> FloatArray:
        if variation == 0:
            return canvas
        return vary(canvas, self.config.augment, (self.config.run.seed, index, variation))


class CachedTokens:
    """All variations' tokens in memory, (V, N, L, C) float16."""

    def __init__(
        self, tokens: torch.Tensor, canvases: Canvases, target: Target, window: Grid
    ) -> None:
        self._tokens, self._canvases, self._target = tokens, canvases, target
        self._window = window

    def batch(self, step: int) -> torch.Tensor:
        """Pick a batch; each image comes in a variation drawn from the step."""
        config = self._canvases.config
        chosen = _chosen(step, self._canvases)
        variations = np.random.default_rng((config.run.seed, 3, step)).integers(
            len(self._tokens), size=len(chosen)
        )
        raw = self._tokens[torch.from_numpy(variations), torch.from_numpy(chosen)]
        raw = _cut(raw, self._target.grid, self._window, (config.run.seed, 4, step))
        return self._target.standardise(to_device(raw, self._target.mean.device))

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Standardise the cached tokens."""
        raw = self._tokens[0, torch.as_tensor(rows)]
        return self._target.standardise(to_device(raw, self._target.mean.device))

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        return _names(step, self._canvases)


class FreshTokens:
    """Decodes, varies and runs the backbone at every step."""

    def __init__(self, canvases: Canvases, target: Target, window: Grid) -> None:
        self._canvases, self._target, self._window = canvases, target, window

    def batch(self, step: int) -> torch.Tensor:
        """Compute a batch; every step draws new variations."""
        chosen = _chosen(step, self._canvases).tolist()
        varies = self._canvases.config.augment.fresh or self._canvases.config.augment.copies
        variation = step + 1 if varies else 0
        pixels = self._canvases.load(chosen, [variation] * len(chosen))
        raw = raw_tokens(self._target, pixels).clone()
        seed = (self._canvases.config.run.seed, 4, step)
        return self._target.standardise(_cut(raw, self._target.grid, self._window, seed))

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Decode and run the backbone."""
        return target_tokens(self._target, self._canvases.load(rows, [0] * len(rows)))

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        return _names(step, self._canvases)


def prepare_tokens(
    samples: Sequence[Sample],
    config: TrainConfig,
    target: Target,
    window: Grid,
    progress: Callable[[Iterator[int], int], Iterator[int]],
) -> TokenSource:
    """Fit the target's standardisation on the images and return their tokens, cached if they may be."""
    canvases = Canvases(samples, config)
    variations = 1 + (0 if config.augment.fresh else config.augment.copies)
    size_gb = 2 * variations * len(samples) * target.grid.length * target.token_dim / 1e9
    if config.augment.fresh or size_gb > config.run.cache_limit_gb:
        _log.info("tokens are computed at every step (a cache would take %.1f GB)", size_gb)
        _fit_statistics(canvases, target)
        return FreshTokens(canvases, target, window)
    shape = (variations, len(samples), target.grid.length, target.token_dim)
    tokens = torch.empty(shape, dtype=torch.float16)
    chunk = _CHUNK
    for start in progress(iter(range(0, len(samples), chunk)), -(-len(samples) // chunk)):
        rows = list(range(start, min(start + chunk, len(samples))))
        for variation in range(variations):
            pixels = canvases.load(rows, [variation] * len(rows))
            tokens[variation, rows] = raw_tokens(target, pixels).half().cpu()
    _fit(target, tokens[0])
    return CachedTokens(tokens, canvases, target, window)


@torch.inference_mode()
def raw_tokens(target: Target, pixels: torch.Tensor) -> torch.Tensor:
    """Run the target on its device, channels last where that is faster."""
    pixels = to_device(pixels, target.mean.device)
    if pixels.is_cuda:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    return target.raw(pixels)


def target_tokens(target: Target, pixels: torch.Tensor) -> torch.Tensor:
    """Standardised tokens outside inference mode, so that they can be trained on."""
    return target.standardise(raw_tokens(target, pixels).clone())


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without blocking, from pinned memory, where the device is a GPU."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _fit_statistics(canvases: Canvases, target: Target) -> None:
    count = min(len(canvases), _STATISTICS_IMAGES)
    rows = np.random.default_rng(canvases.config.run.seed).permutation(len(canvases))[:count]
    chunks = np.array_split(rows, max(1, count // 32))
    raw = [raw_tokens(target, canvases.load(c.tolist(), [0] * len(c))).cpu() for c in chunks]
    _fit(target, torch.cat(raw))


def _fit(target: Target, raw: torch.Tensor) -> None:
    """Fit on (N, L, C) tokens, in chunks: float64 sums of float16 values."""
    count = raw.shape[0] * raw.shape[1]
    total = torch.zeros(raw.shape[2], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(raw), 64):
        flat = raw[start : start + 64].double().flatten(0, 1)
        total += flat.sum(dim=0)
        squares += flat.square().sum(dim=0)
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    target.fit(mean.float(), spread.float())


def _cut(raw: torch.Tensor, grid: Grid, window: Grid, seed: tuple[int, ...]) -> torch.Tensor:
    """Cut one random window of each image out of (B, L, C) tokens: (B, l, C)."""
    drawn = int(np.random.default_rng(seed).integers(2**31))
    places = random_places(len(raw), grid, window, torch.Generator().manual_seed(drawn))
    return raw if places is None else take(raw, places.to(raw.device))


def _chosen(step: int, canvases: Canvases) -> np.ndarray:
    config = canvases.config
    return batch_indices(step, len(canvases), config.optimiser.batch_size, config.run.seed)


def _names(step: int, canvases: Canvases) -> list[str]:
    return [str(canvases.samples[i].path) for i in _chosen(step, canvases)]
