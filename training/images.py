"""Decoding ahead of training: workers read, crop and place images while the device computes.

torch's DataLoader does the work; this module says which images and what becomes of one that cannot
be read.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from anomaly.device import usable_cores
from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.preprocess import place
from anomaly.types import FloatArray, RgbImage
from training.augment import Seed, crop
from training.compression import file_bytes
from training.config import TrainConfig
from training.data import Sample
from training.decoded import Decoded
from training.errors import DataError
from training.world import ALONE, World

_log = logging.getLogger(__name__)
_TRIES = 16  # damaged images in a row before reading gives up
_NAMED = 20  # damaged images that the log names


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A step's image: its index, and the seed of its crop and variation (None: as it is)."""

    index: int
    seed: Seed | None


@dataclass(frozen=True, slots=True)
class Placed:
    """A canvas (3, S, S) float32 in [0, 1], and the unreadable files on the way to it."""

    canvas: torch.Tensor
    unreadable: tuple[str, ...] = ()


@dataclass(slots=True)
class Damage:
    """How many images were read and how many could not be, against what the recipe allows."""

    limit: float
    read: int = 0
    files: set[str] = field(default_factory=set)

    def note(self, read: int, unreadable: Sequence[str]) -> None:
        """Count; raises `DataError` when too many are damaged."""
        self.read += read
        for name in unreadable:
            if name not in self.files:
                self.files.add(name)
                if len(self.files) <= _NAMED:
                    _log.warning("left out: %s", name)
        if len(self.files) > self.limit * max(self.read, 1) and (
            self.limit == 0 or self.read > 100
        ):
            raise DataError(
                f"{len(self.files)} of the {self.read} images read so far cannot be decoded, the "
                f"last is {unreadable[-1] if unreadable else 'above'}. Remove or replace them, or "
                "allow a share of them: --set run.unreadable=0.01"
            )


class PlacedImages(Dataset[Placed]):
    """Images by `ImageRequest`, read in a worker; the next sound one replaces a damaged one."""

    def __init__(
        self, samples: Sequence[Sample], config: TrainConfig, decoded: Decoded | None = None
    ) -> None:
        self._samples, self._config, self._decoded = samples, config, decoded

    def __getitem__(self, request: ImageRequest) -> Placed:
        """Decode, crop and place."""
        unreadable: list[str] = []
        for number in range(request.index, request.index + _TRIES):
            index = number % len(self._samples)
            sample = self._samples[index]
            try:
                canvas = self._canvas(index, sample, request.seed)
            except (ImageError, OSError) as error:
                unreadable.append(f"{sample.path}: {error}")
            else:
                return Placed(canvas, tuple(unreadable))
        raise DataError(f"{_TRIES} images in a row cannot be read, the first is {unreadable[0]}")

    def _canvas(self, index: int, sample: Sample, seed: Seed | None) -> torch.Tensor:
        config, decoded = self._config, self._decoded
        if decoded is None:
            return placed(file_bytes(sample), config, seed)
        canvas = decoded.get(index)
        if canvas is None:
            image = cut(file_bytes(sample), config, seed)
            canvas, _ = place(image, config.model.preprocess)
            if image.pixels.dtype == np.uint8:
                decoded.put(index, canvas)
        return channels_first(canvas)


def placed(data: bytes, config: TrainConfig, seed: Seed | None) -> torch.Tensor:
    """Decode an image, cut a crop where the recipe wants one, and place it: (3, S, S) float32."""
    canvas, _ = place(cut(data, config, seed), config.model.preprocess)
    return channels_first(canvas)


def cut(data: bytes, config: TrainConfig, seed: Seed | None) -> RgbImage:
    """Decode an image no larger than is needed, and cut a crop where the recipe wants one."""
    # A crop of a tenth of the area needs the whole at three times the canvas.
    side = round(config.model.preprocess.canvas / np.sqrt(config.augment.crop[0]))
    image: RgbImage = decode_image(data, canvas=side)
    if config.augment.crops and seed is not None:
        return crop(image, config.augment, seed)
    return image


def channels_first(canvas: FloatArray) -> torch.Tensor:
    """Turn (S, S, 3) into a tensor (3, S, S)."""
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def stack(batch: Sequence[Placed]) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Put a batch together: (B, 3, S, S), and all that could not be read."""
    canvases = torch.stack([placed_image.canvas for placed_image in batch])
    return canvases, tuple(name for placed_image in batch for name in placed_image.unreadable)


def reading(
    samples: Sequence[Sample],
    config: TrainConfig,
    steps: Iterable[list[ImageRequest]],
    *,
    pin: bool,
    decoded: Decoded | None = None,
    world: World = ALONE,
) -> Iterator[tuple[torch.Tensor, tuple[str, ...]]]:
    """Read one batch after the other, a few ahead: (B, 3, S, S) and what could not be read."""
    loader = DataLoader(
        PlacedImages(samples, config, decoded),
        batch_sampler=steps,
        collate_fn=stack,
        pin_memory=pin,
        **workers(config, world),
    )
    return iter(loader)


def workers(config: TrainConfig, world: World) -> dict[str, Any]:
    """Return a DataLoader's settings for its processes: no more than its share of the cores."""
    count = min(config.run.workers, max(1, usable_cores() // world.local_size))
    if count == 0:
        return {"num_workers": 0}
    return {"num_workers": count, "worker_init_fn": _one_thread, "prefetch_factor": 4}


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
    torch.set_num_threads(1)
