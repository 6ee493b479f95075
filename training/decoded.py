"""Images decoded once for a training that sees them often: canvases in one file that all readers map.

A canvas of an 8-bit image has 8 bits itself (`anomaly.preprocess.place`), so it is kept as it is: training is
the same, bit for bit, with and without. Images of 16 bits are decoded anew every time.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomaly.types import FloatArray
from training.config import TrainConfig
from training.world import World

_log = logging.getLogger(__name__)
_SPARE = 0.5  # of the disk's free space it may take


class Decoded:
    """Canvases by image, (N, S, S, 3) uint8 in a file, and which of them are there."""

    def __init__(self, path: Path, count: int, side: int) -> None:
        self._path, self._count, self._side = path, count, side
        self._canvases = np.memmap(path, np.uint8, "r", shape=(count, side, side, 3))
        self._there = np.memmap(_list_of(path), np.uint8, "r", shape=(count,))

    def __reduce__(self) -> tuple[type["Decoded"], tuple[Path, int, int]]:
        """Let a worker process map the files by itself."""
        return Decoded, (self._path, self._count, self._side)

    def get(self, index: int) -> FloatArray | None:
        """Return an image's canvas (S, S, 3) float32 in [0, 1], if it is there."""
        if not self._there[index]:
            return None
        canvas: FloatArray = self._canvases[index].astype(np.float32) / np.float32(255)
        return canvas

    def put(self, index: int, canvas: FloatArray) -> None:
        """Keep the canvas of an 8-bit image; not if the disk is full."""
        pixels = np.rint(canvas * np.float32(255)).astype(np.uint8)
        with contextlib.suppress(OSError):
            _write(self._path, index * pixels.nbytes, pixels.tobytes())
            _write(_list_of(self._path), index, b"\1")  # last: who reads this finds the whole


@contextlib.contextmanager
def decoded_once(
    count: int, config: TrainConfig, folder: Path, world: World
) -> Iterator[Decoded | None]:
    """Give the processes of one machine a place for canvases while the block runs; None without.

    There is none where images are cut at random, are seen once only, or are too many for
    `run.decoded_limit_gb` or for half of the disk's free space.
    """
    side, run = config.model.preprocess.canvas, config.run
    size = count * side * side * 3
    again = config.optimiser.steps * config.optimiser.batch_size > count
    if config.augment.crops or not again or size > 1e9 * run.decoded_limit_gb:
        yield None
        return
    path = folder / f"decoded.{world.machine}.bin"
    if world.local_rank == 0:
        path.unlink(missing_ok=True)  # of a run that was killed
        if size < _SPARE * shutil.disk_usage(folder).free:
            _make(path, size)
            _make(_list_of(path), count)
        else:
            _log.warning(
                "too little room in %s to keep decoded images: %.1f GB", folder, size / 1e9
            )
    world.wait()
    if not path.exists():
        yield None
        return
    try:
        yield Decoded(path, count, side)
    finally:
        if world.local_rank == 0:
            path.unlink(missing_ok=True)  # those who map it keep it until they end
            _list_of(path).unlink(missing_ok=True)


def _list_of(path: Path) -> Path:
    return path.with_suffix(".list")


def _make(path: Path, size: int) -> None:
    """Make a file of zeros that takes no room before it is written to."""
    with path.open("wb") as file:
        file.truncate(size)


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        file.write(data)
