"""Images decoded once for a training that sees them often: one file of canvases, mapped by all.

A canvas of an 8-bit image has 8 bits itself (`anomaly.preprocess.place`), so it is kept as it is:
training is the same, bit for bit, with and without. Images of 16 bits are decoded anew every time.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomaly.types import FloatArray
from training.config import TrainConfig
from training.world import World, shared_file

_log = logging.getLogger(__name__)
_SPARE = 0.5  # of the disk's free space it may take


class Decoded:
    """Canvases by image in one file: (N,) bytes that tell which are there, (N, S, S, 3) uint8."""

    def __init__(self, path: Path, count: int, side: int) -> None:
        self._path, self._count, self._side = path, count, side
        self._is_decoded = np.memmap(path, np.uint8, "r", shape=(count,))
        shape = (count, side, side, 3)
        self._canvases = np.memmap(path, np.uint8, "r", offset=count, shape=shape)

    def __reduce__(self) -> tuple[type["Decoded"], tuple[Path, int, int]]:
        """Let a worker process map the file by itself."""
        return Decoded, (self._path, self._count, self._side)

    def get(self, index: int) -> FloatArray | None:
        """Return an image's canvas (S, S, 3) float32 in [0, 1], if it is there."""
        if not self._is_decoded[index]:
            return None
        canvas: FloatArray = self._canvases[index].astype(np.float32) / np.float32(255)
        return canvas

    def put(self, index: int, canvas: FloatArray) -> None:
        """Keep the canvas of an 8-bit image; not if the disk is full."""
        pixels = np.rint(canvas * np.float32(255)).astype(np.uint8)
        with contextlib.suppress(OSError):
            self._write(self._count + index * pixels.nbytes, pixels.tobytes())
            self._write(index, b"\1")  # last: a reader that sees this finds the whole

    def _write(self, offset: int, data: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(offset)
            file.write(data)


@contextlib.contextmanager
def decoded_once(
    count: int, config: TrainConfig, folder: Path, world: World
) -> Iterator[Decoded | None]:
    """Give the processes of one machine a place for canvases while the block runs; None without.

    There is none where images are cut at random, are seen once only, or are too many for
    `run.decoded_limit_gb` or for half of the disk's free space.
    """
    side, run = config.model.preprocess.canvas, config.run
    size = count * (1 + side * side * 3)
    is_repeated = config.optimiser.steps * config.optimiser.batch_size > count
    if config.augment.crops or not is_repeated or size > 1e9 * run.decoded_limit_gb:
        yield None
        return
    with shared_file(folder / f"decoded.{world.machine}.bin", size, world) as path:
        if size < _SPARE * shutil.disk_usage(folder).free:
            yield Decoded(path, count, side)
        else:
            _log.warning(
                "too little room in %s to keep decoded images: %.1f GB", folder, size / 1e9
            )
            yield None
