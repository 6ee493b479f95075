"""Streaming from WebDataset shards: tar files read from end to end, in bounded memory.

Every epoch the shards are put in a new order and dealt to the processes and their workers; each
worker shuffles within a buffer. A resumed run starts a new order: unlike with files, it does not
repeat what the unbroken run would have seen.
"""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from anomaly.device import to_device
from anomaly.errors import ImageError
from anomaly.image import EXTENSIONS
from training.augment import vary
from training.config import TrainConfig
from training.errors import DataError
from training.images import Damage, Placed, placed, stack, workers
from training.outputs import check_new_folder
from training.tokens import (
    STATISTICS_IMAGES,
    TokenSetup,
    fit_tokens,
    random_cut,
    raw_tokens,
    target_tokens,
)
from training.world import World

_log = logging.getLogger(__name__)
_HEAD_BYTES = 1_000_000  # of a shard, to tell it from others: its first images
_MOST_DAMAGED = 1000  # in a row, within one worker


@dataclass(frozen=True, slots=True)
class Shards:
    """The tar files of a set."""

    paths: tuple[str, ...]

    @property
    def digest(self) -> list[tuple[str, int, str]]:
        """The identity of a set of shards: names, sizes, and digests of their first bytes."""
        return [_described(Path(path)) for path in self.paths]


def _described(path: Path) -> tuple[str, int, str]:
    with path.open("rb") as file:
        start = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        return path.name, file.seek(0, os.SEEK_END), start


def find_shards(roots: Sequence[Path]) -> Shards | None:
    """Return the .tar files among and in `roots`; None where they are folders of images."""
    paths: list[str] = []
    without_shards = 0
    for root in roots:
        root_shards = [root] if root.suffix == ".tar" else sorted(root.glob("[!.]*.tar"))
        if (
            root_shards
            and root.is_dir()
            and (beside := sum(1 for _ in root.glob("[!.]*")) - len(root_shards))
        ):
            _log.warning(
                "left out: %d other files and folders beside the shards in %s", beside, root
            )
        paths += [str(path.absolute()) for path in root_shards]
        without_shards += not root_shards
    if paths and without_shards:
        raise DataError(
            "some of the data are shards and some are not; give either shards or folders"
        )
    return Shards(tuple(paths)) if paths else None


class ShardStream(IterableDataset[Placed]):
    """Images of shards without end, from the epoch that `first` step's seed begins."""

    def __init__(self, shards: Shards, config: TrainConfig, world: World, first: int) -> None:
        self._shards, self._config, self._world, self._first = shards, config, world, first

    def __iter__(self) -> Iterator[Placed]:
        """Read this worker's share of every epoch."""
        info = get_worker_info()
        number, of = (0, 1) if info is None else (info.id, info.num_workers)
        reader, readers = self._world.rank * of + number, self._world.size * of
        damaged: deque[str] = deque()
        serial = 0
        for epoch in count():
            before = serial
            for key, data in self.epoch(epoch, reader, readers, damaged):
                serial += 1
                seed = (self._config.run.seed, 6, self._first, reader, serial)
                try:
                    canvas = placed(data, self._config, seed)
                except ImageError as error:
                    damaged.append(f"{key}: {error}")
                    if len(damaged) > _MOST_DAMAGED:
                        raise DataError(
                            f"{_MOST_DAMAGED} images in a row cannot be read, the last is "
                            f"{damaged[-1]}"
                        ) from error
                    continue
                yield Placed(canvas, tuple(damaged))
                damaged.clear()
            if serial == before:
                raise DataError(
                    f"no images in the shards read by process {reader} of {readers}; want "
                    "files named "
                    f"{', '.join(EXTENSIONS)} in them" + (f"; {damaged[-1]}" if damaged else "")
                )

    def epoch(
        self, epoch: int, reader: int, readers: int, damaged: deque[str]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of every image in a reader's shards of one epoch, shuffled."""
        seed = (self._config.run.seed, 8, self._first, epoch)
        order = np.random.default_rng(seed).permutation(len(self._shards.paths))
        reader_shards = [self._shards.paths[i] for i in order[reader::readers]]

        shuffled: Any = webdataset.shuffle(
            self._config.run.shuffle, rng=Random(repr((seed, reader)))
        )
        yield from shuffled(image for path in reader_shards for image in _images(path, damaged))


def _images(shard: str, damaged: deque[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the images in a shard; damaged ones are noted and skipped."""

    def note(error: Exception) -> bool:
        damaged.append(f"{shard}: {error}")
        return True

    with Path(shard).open("rb") as stream:
        files = tar_file_expander([{"url": shard, "stream": stream}], handler=note)
        for sample in group_by_keys(files, handler=note):
            if (image_bytes := _image_of(sample)) is not None:
                yield f"{shard}:{sample['__key__']}", image_bytes


def _image_of(sample: dict[str, Any]) -> bytes | None:
    for extension in EXTENSIONS:
        if isinstance(data := sample.get(extension[1:]), bytes):
            return data
    return None


class StreamTokens:
    """Tokens of a stream of images."""

    def __init__(self, shards: Shards, config: TrainConfig, setup: TokenSetup) -> None:
        self._shards, self._config, self._place = shards, config, setup

    def steps(self, first: int) -> Iterator[torch.Tensor]:
        """Read, vary and run the target. Raises `DataError` when too many images are damaged."""
        config, target, world = self._config, self._place.target, self._place.world
        device, damage = target.mean.device, Damage(config.run.unreadable)
        for step, (pixels, unreadable) in enumerate(self._batches(first), start=first):
            damage.note(len(pixels), unreadable)
            on_device = to_device(pixels, device)
            if config.augment.fresh:
                seeds = [(config.run.seed, 9, step, world.rank, i) for i in range(len(pixels))]
                on_device = vary(on_device, config.augment, seeds)
            tokens = target_tokens(target, on_device)
            seed, share = (config.run.seed, 4, step), world.share(config.optimiser.batch_size)
            yield random_cut(
                tokens,
                target.grid,
                self._place.window,
                seed,
                batch=config.optimiser.batch_size,
                share=share,
            )

    def names(self, step: int) -> list[str]:
        """Return that it is not known: images come from shards in the order they are read."""
        return ["images from shards"]

    def fit(self) -> None:
        """Fit the target's standardisation on the stream's first images, over all processes."""
        target, world = self._place.target, self._place.world
        images_each = max(1, STATISTICS_IMAGES // (world.size * self._config.optimiser.batch_size))
        raw = [
            raw_tokens(target, to_device(pixels, target.mean.device)).cpu()
            for pixels, _ in islice(self._batches(0, ahead=False), images_each)
        ]
        fit_tokens(target, torch.cat(raw), world)

    def _batches(
        self, first: int, *, ahead: bool = True
    ) -> Iterator[tuple[torch.Tensor, tuple[str, ...]]]:
        """Read batches, in worker processes that stay ahead or as they are asked for."""
        config, world = self._config, self._place.world
        readers = len(self._shards.paths) // world.size
        if readers == 0:
            raise DataError(
                f"{len(self._shards.paths)} shards for {world.size} processes: write more, smaller "
                "ones (maskline pack --per-shard)"
            )
        share = world.share(config.optimiser.batch_size)
        loader_options = workers(config, world) if ahead else {"num_workers": 0}
        if readers < loader_options["num_workers"]:
            _log.warning("%d reading processes only: there are no more shards", readers)
        loader_options["num_workers"] = min(readers, loader_options["num_workers"])
        loader: DataLoader[Placed] = DataLoader(
            ShardStream(self._shards, config, world, first),
            batch_size=share.stop - share.start,
            collate_fn=stack,
            drop_last=True,
            pin_memory=self._place.target.mean.is_cuda,
            **loader_options,
        )
        return iter(loader)


def pack(paths: Iterable[Path], out: Path, per_shard: int) -> int:
    """Write images into shards of `per_shard` each, in a new folder; return the number of shards.

    Raises `OutputRefused` where something is there already.
    """
    check_new_folder(out, ())
    out.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=per_shard, verbose=0) as writer:
        for number, path in enumerate(paths):
            extension = path.suffix.lower()[1:]
            writer.write({"__key__": f"{number:09d}", extension: path.read_bytes()})
    return len(list(out.glob("*.tar")))
