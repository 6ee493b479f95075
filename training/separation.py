"""How well a canvas's features tell corrupted copies of normal images from the images.

Nothing is trained: an image scores by its patches' distance to those of other normal images. What
counts is the recall where a tenth of the normal images are rejected: thresholds lie there, and the
area under the whole curve hides what is lost there (docs/LOG.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anomaly.corruption import corrupt, corrupt_diffusely
from anomaly.memory_bank import Memory
from anomaly.preprocess import preprocess
from anomaly.targets import Target, build_target
from anomaly.types import RgbImage
from training.config import TrainConfig
from training.coreset import select

KINDS = ("local", "diffuse")
FALSE_ALARMS = 0.1  # of the normal images, at the threshold whose recall counts
_TOP_SHARE = 0.002
_BANK = 2000
_CANDIDATES = 20_000
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Separation:
    """Which copies score above which normal images, by kind of defect.

    `wins` holds for each half of the images an array (kinds, blocks, n, n): 1 where the copy of
    image i scores above normal image j, .5 where it scores the same.
    """

    wins: tuple[np.ndarray, ...]

    @property
    def recalls(self) -> dict[str, float]:
        """Recall by kind of defect, of the block of features that tells it best."""
        return dict(zip(KINDS, _recalls(self.wins).tolist(), strict=True))

    @property
    def mean(self) -> float:
        """Mean recall over the kinds of defects."""
        return float(np.mean(_recalls(self.wins)))

    def drawn(self, generator: np.random.Generator) -> "Separation":
        """Draw as many images with replacement, for a bootstrap."""
        parts = []
        for part in self.wins:
            rows = generator.integers(part.shape[2], size=part.shape[2])
            parts.append(part[:, :, rows][:, :, :, rows])
        return Separation(tuple(parts))


def gain(larger: Separation, smaller: Separation) -> tuple[float, float]:
    """Return by how much the mean recall grows on the same images, and its bootstrap's spread."""
    gains = [
        larger.drawn(np.random.default_rng(seed)).mean
        - smaller.drawn(np.random.default_rng(seed)).mean
        for seed in range(_RESAMPLES)
    ]
    return larger.mean - smaller.mean, float(np.std(gains))


def with_defects(images: Sequence[RgbImage], seed: int) -> list[list[RgbImage]]:
    """Draw a copy of each image for every kind of defect, in the order of `KINDS`."""
    generator = np.random.default_rng(seed)
    local = [corrupt(image, images[i - 1], generator)[0] for i, image in enumerate(images)]
    diffuse = [corrupt_diffusely(image, generator)[0] for image in images]
    return [local, diffuse]


@torch.inference_mode()
def separation(
    images: Sequence[RgbImage], drawn: Sequence[Sequence[RgbImage]], config: TrainConfig
) -> Separation:
    """Score the images and the copies of each that `with_defects` drew.

    Each half of the images is the memory for the other half and its copies.
    """
    target = build_target(config.model.target, config.model.preprocess.canvas).eval()
    normal, *copies = (_tokens(target, part, config) for part in (images, *drawn))
    flat = normal.flatten(0, 1)
    target.fit(flat.mean(dim=0), flat.std(dim=0))
    half = np.arange(len(images)) % 2 == 0
    wins = []
    for held in (half, ~half):
        memory = Memory(target.blocks, _BANK)
        memory.fit(_banks(target, normal[~held]))
        below = _scores(target, memory, normal[held])
        above = np.stack([_scores(target, memory, copy[held]) for copy in copies])
        higher, lower = above[..., :, None], below[None, :, None, :]
        wins.append((higher > lower) + 0.5 * (higher == lower))
    return Separation(tuple(wins))


def _recalls(wins: Sequence[np.ndarray]) -> np.ndarray:
    """(kinds,): share of copies above nearly all normal images, the mean over the halves."""
    halves = [(part.mean(axis=3) >= 1 - FALSE_ALARMS).mean(axis=2) for part in wins]
    best: np.ndarray = np.mean(halves, axis=0).max(axis=1)
    return best


def _scores(target: Target, memory: Memory, raw: torch.Tensor) -> np.ndarray:
    """Return each block's image scores, (blocks, N), of raw tokens (N, L, C)."""
    count = max(1, round(_TOP_SHARE * target.map_grid.length))
    distance = torch.cat(
        [
            target.on_map(memory(target.cells(image_tokens[None])))
            for image_tokens in target.standardise(raw)
        ]
    )
    scores: np.ndarray = distance.topk(count, dim=2).values.mean(dim=2).T.numpy()
    return scores


def _tokens(target: Target, images: Sequence[RgbImage], config: TrainConfig) -> torch.Tensor:
    """Raw tokens (N, L, C), a few images at a time."""
    parts = []
    for start in range(0, len(images), 4):
        pixels, _ = preprocess(images[start : start + 4], config.model.preprocess)
        parts.append(target.raw(pixels))
    return torch.cat(parts)


def _banks(target: Target, raw: torch.Tensor) -> list[torch.Tensor]:
    """A coreset of each block's cells, (K, channels)."""
    generator = torch.Generator().manual_seed(0)
    banks = []
    for cells in target.cells(target.standardise(raw)):
        flat = cells.flatten(0, 1)
        candidates = flat[torch.randperm(len(flat), generator=generator)[:_CANDIDATES]]
        banks.append(candidates[select(candidates, _BANK, generator)])
    return banks
