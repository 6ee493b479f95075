"""Training tokens: computed once and cached, or fresh at every step.

Backbone features of a fixed set of variations never change, so they are computed once and kept as
float16. Where the recipe wants fresh variations, or the cache would not fit, images are decoded and
sent through the backbone at every step instead, by worker processes that stay ahead of the device.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from anomaly.device import to_device
from anomaly.mae import take
from anomaly.preprocess import preprocess
from anomaly.targets import Target
from anomaly.types import Grid
from anomaly.windows import random_places
from training.augment import Seed, vary
from training.config import TrainConfig
from training.data import Sample
from training.decoded import decoded_once
from training.decoding import Decoding
from training.images import Damage, ImageRequest, reading
from training.progress import Progress
from training.schedule import batch_indices
from training.world import ALONE, World, shared_file

_log = logging.getLogger(__name__)
STATISTICS_IMAGES = 512
_CHUNK = 8
_SPARE = 0.5  # of a GPU's free memory the cache may take


class TokenSource(Protocol):
    """Gives each step its batch of standardised tokens, a random window of each image."""

    def steps(self, first: int) -> Iterator[torch.Tensor]:
        """Yield (b, l, C) tokens on the target's device, this process's share of each batch."""
        ...

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        ...


class ImageTokens(TokenSource, Protocol):
    """Knows each image by its index as well."""

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Return all standardised tokens (N, L, C) of images by index, unvaried."""
        ...


@dataclass(frozen=True, slots=True)
class TokenSetup:
    """Where tokens are made: the model's target and window, the run's folder and processes."""

    target: Target
    window: Grid
    folder: Path
    world: World
    fitted: bool = False  # the standardisation came with the weights to start from


@dataclass(frozen=True, slots=True)
class Canvases:
    """Training images by index, decoded and placed; variation 0 is the image itself."""

    samples: Sequence[Sample]
    config: TrainConfig
    world: World

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def load(self, indices: Sequence[int], device: torch.device) -> torch.Tensor:
        """Return (B, 3, S, S) float32 canvases in [0, 1], unvaried."""
        config, threads = self.config.model.preprocess, max(1, self.config.run.workers)
        samples = [self.samples[i] for i in indices]
        read = Decoding(canvas=config.canvas, threads=threads).images(samples)
        return to_device(preprocess([image for _, image in read], config)[0], device)

    def vary(
        self, pixels: torch.Tensor, indices: Sequence[int], variations: Sequence[int]
    ) -> torch.Tensor:
        """Vary canvases on their device; those of variation 0 stay as they are."""
        seeds = [self.seed(i, v) for i, v in zip(indices, variations, strict=True)]
        return vary(pixels, self.config.augment, seeds)

    def seed(self, index: int, variation: int) -> Seed | None:
        """Return what a variation is drawn from."""
        return (self.config.run.seed, index, variation) if variation else None

    def chosen(self, step: int) -> np.ndarray:
        """Return which images the whole batch of a step has."""
        config = self.config
        return batch_indices(step, len(self), config.optimiser.batch_size, config.run.seed)

    def own(self, step: int) -> np.ndarray:
        """Return which images this process's part of the batch has."""
        return self.chosen(step)[self.share()]

    def share(self) -> slice:
        """Return this process's part of a batch."""
        return self.world.share(self.config.optimiser.batch_size)

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        return [str(self.samples[int(i)].path) for i in self.chosen(step)]

    def cut(self, raw: torch.Tensor, step: int, grid: Grid, window: Grid) -> torch.Tensor:
        """Cut one random window of each image out of this process's (b, L, C) tokens: (b, l, C)."""
        batch = self.config.optimiser.batch_size
        seed = (self.config.run.seed, 4, step)
        return random_cut(raw, grid, window, seed, batch=batch, share=self.share())


class CachedTokens:
    """All variations' tokens in memory, (V, N, L, C) float16."""

    def __init__(
        self, tokens: torch.Tensor, canvases: Canvases, target: Target, window: Grid
    ) -> None:
        self._tokens, self._canvases, self._target = tokens, canvases, target
        self._window = window

    def steps(self, first: int) -> Iterator[torch.Tensor]:
        """Pick batches; each image comes in a variation drawn from the step."""
        canvases, step = self._canvases, first
        config = canvases.config
        while True:
            variations = np.random.default_rng((config.run.seed, 3, step)).integers(
                len(self._tokens), size=config.optimiser.batch_size
            )
            raw = self._pick(variations[canvases.share()], canvases.own(step))
            raw = canvases.cut(raw, step, self._target.grid, self._window)
            yield self._target.standardise(raw)
            step += 1

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Standardise the cached tokens."""
        return self._target.standardise(self._pick(np.zeros(len(rows), int), np.asarray(rows)))

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        return self._canvases.names(step)

    def _pick(self, variations: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        where, device = self._tokens.device, self._target.mean.device
        first, second = (to_device(torch.from_numpy(index), where) for index in (variations, rows))
        return to_device(self._tokens[first, second], device)


class FreshTokens:
    """Decodes, varies and runs the backbone at every step."""

    def __init__(self, canvases: Canvases, setup: TokenSetup) -> None:
        self._canvases, self._target, self._window = canvases, setup.target, setup.window
        self._folder = setup.folder

    def steps(self, first: int) -> Iterator[torch.Tensor]:
        """Compute batches; a step draws new variations. Raises `DataError` for damaged images."""
        canvases, target = self._canvases, self._target
        config, device = canvases.config, target.mean.device
        damage, pin = Damage(config.run.unreadable), device.type == "cuda"
        with decoded_once(len(canvases), config, self._folder, canvases.world) as decoded:
            requests = self._requests(first)
            batches = reading(
                canvases.samples, config, requests, pin=pin, decoded=decoded, world=canvases.world
            )
            for step, (pixels, unreadable) in enumerate(batches, start=first):
                damage.note(len(pixels), unreadable)
                indices = canvases.own(step).tolist()
                variations = [self._variation(step)] * len(indices)
                varied = canvases.vary(to_device(pixels, device), indices, variations)
                raw = raw_tokens(target, varied).clone()
                yield target.standardise(canvases.cut(raw, step, target.grid, self._window))

    def whole(self, rows: Sequence[int]) -> torch.Tensor:
        """Decode and run the backbone."""
        device = self._target.mean.device
        return target_tokens(self._target, self._canvases.load(rows, device))

    def names(self, step: int) -> list[str]:
        """Return the files behind a step's batch."""
        return self._canvases.names(step)

    def _requests(self, first: int) -> Iterator[list[ImageRequest]]:
        canvases = self._canvases
        for step in range(first, canvases.config.optimiser.steps):
            indices = canvases.own(step).tolist()
            yield [ImageRequest(i, canvases.seed(i, self._variation(step))) for i in indices]

    def _variation(self, step: int) -> int:
        augment = self._canvases.config.augment
        return step + 1 if augment.fresh or augment.copies else 0


def prepare_tokens(
    samples: Sequence[Sample],
    config: TrainConfig,
    setup: TokenSetup,
    progress: Progress,
) -> ImageTokens:
    """Fit the target's standardisation on the images; return their tokens, cached if allowed."""
    target = setup.target
    canvases = Canvases(samples, config, setup.world)
    variations = 1 + (0 if config.augment.fresh else config.augment.copies)
    shape = (variations, len(samples), target.grid.length, target.token_dim)
    size_gb = 2 * np.prod(shape, dtype=float) / 1e9
    if config.augment.fresh or size_gb > config.run.cache_limit_gb:
        _log.info("tokens are computed at every step (a cache would take %.1f GB)", size_gb)
        return fresh_tokens(samples, config, setup)
    with cache(shape, setup) as tokens:
        _fill(tokens, canvases, setup, progress)
    if not setup.fitted:
        fit_tokens(target, tokens[0])
    return CachedTokens(nearer(tokens, target.mean.device), canvases, target, setup.window)


def fresh_tokens(samples: Sequence[Sample], config: TrainConfig, setup: TokenSetup) -> FreshTokens:
    """Return tokens that are computed at every step, the target fitted to some of the images."""
    canvases = Canvases(samples, config, setup.world)
    if not setup.fitted:
        _fit_statistics(canvases, setup.target)
    return FreshTokens(canvases, setup)


def _fill(
    tokens: torch.Tensor,
    canvases: Canvases,
    setup: TokenSetup,
    progress: Progress,
) -> None:
    """Compute the tokens of this process's share of the images."""
    target, world = setup.target, setup.world
    starts = range(0, len(canvases), _CHUNK)[world.local_rank :: world.local_size]
    for start in progress.each(starts, "features", total=len(starts), unit="batch"):
        rows = list(range(start, min(start + _CHUNK, len(canvases))))
        pixels = canvases.load(rows, target.mean.device)
        for variation in range(len(tokens)):
            varied = canvases.vary(pixels, rows, [variation] * len(rows))
            tokens[variation, rows] = raw_tokens(target, varied).half().cpu()


@contextmanager
def cache(shape: tuple[int, ...], setup: TokenSetup) -> Iterator[torch.Tensor]:
    """Give a machine's processes one float16 tensor to fill together; whole after the block."""
    world = setup.world
    if world.local_size == 1:
        yield torch.empty(shape, dtype=torch.float16)
        return
    count = int(np.prod(shape))
    with shared_file(setup.folder / f"tokens.{world.machine}.bin", 2 * count, world) as path:
        flat = torch.from_file(str(path), shared=True, size=count, dtype=torch.float16)
        yield flat.view(shape)
        world.wait()


def nearer(tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move the cache to the GPU where it takes less than half of the memory that is free."""
    if device.type != "cuda":
        return tokens
    free, _ = torch.cuda.mem_get_info(device)
    return tokens.to(device) if tokens.nbytes < _SPARE * free else tokens


@torch.inference_mode()
def raw_tokens(target: Target, pixels: torch.Tensor) -> torch.Tensor:
    """Run the target on its device."""
    pixels = to_device(pixels, target.mean.device)
    return target.raw(pixels)


def target_tokens(target: Target, pixels: torch.Tensor) -> torch.Tensor:
    """Standardised tokens outside inference mode, so that they can be trained on."""
    return target.standardise(raw_tokens(target, pixels).clone())


def random_cut(
    raw: torch.Tensor,
    grid: Grid,
    window: Grid,
    seed: tuple[int, ...],
    *,
    batch: int,
    share: slice,
) -> torch.Tensor:
    """Cut a random window of each image, (b, L, C) to (b, l, C); `share` is b's part of a batch."""
    drawn = int(np.random.default_rng(seed).integers(2**31))
    places = random_places(batch, grid, window, torch.Generator().manual_seed(drawn))
    return raw if places is None else take(raw, to_device(places[share], raw.device))


def _fit_statistics(canvases: Canvases, target: Target) -> None:
    count = min(len(canvases), STATISTICS_IMAGES)
    rows = np.random.default_rng(canvases.config.run.seed).permutation(len(canvases))[:count]
    world, device = canvases.world, target.mean.device
    chunks = np.array_split(rows, max(1, count // 32))[world.rank :: world.size]
    requests = [[ImageRequest(index, None) for index in chunk.tolist()] for chunk in chunks]
    damage = Damage(canvases.config.run.unreadable)
    raw = []
    for pixels, unreadable in reading(
        canvases.samples, canvases.config, requests, pin=False, world=world
    ):
        damage.note(len(pixels), unreadable)
        raw.append(raw_tokens(target, to_device(pixels, device)).cpu())
    tokens_read = torch.cat(raw) if raw else torch.empty(0, target.grid.length, target.token_dim)
    fit_tokens(target, tokens_read, world)


def fit_tokens(target: Target, raw: torch.Tensor, world: World = ALONE) -> None:
    """Fit the standardisation on (N, L, C) tokens, in chunks: float64 sums, over all processes."""
    sums = torch.zeros(2, raw.shape[2], dtype=torch.float64)
    for start in range(0, len(raw), 64):
        flat = raw[start : start + 64].double().flatten(0, 1)
        sums[0] += flat.sum(dim=0)
        sums[1] += flat.square().sum(dim=0)
    count = torch.tensor([raw.shape[0] * raw.shape[1]], dtype=torch.float64)
    device = target.mean.device
    together = world.total(torch.cat([sums.flatten(), count]).to(device)).cpu()
    (total, squares), number = together[:-1].view(2, -1), together[-1]
    mean = total / number
    spread = (squares / number - mean.square()).clamp(min=0).sqrt()
    target.fit(mean.float(), spread.float())
