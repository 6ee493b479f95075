"""From samples to decoded images, in order and a few ahead."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from anomaly.errors import ImageError
from anomaly.image import decode_image
from anomaly.types import RgbImage
from training.compression import file_bytes
from training.errors import DataError
from training.samples import Sample, printable

_log = logging.getLogger(__name__)
_AHEAD, _BATCH = 16, 8  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How images are read: whether unreadable ones are skipped, by how many threads, how large.

    `canvas` as in `decode_image`: whole images without it.
    """

    skip_unreadable: bool = False
    threads: int = 2
    canvas: int | None = None

    def on(self, canvas: int) -> "Decoding":
        """Return the same for images that are placed on a canvas."""
        return replace(self, canvas=canvas)

    def images(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, RgbImage]]:
        """Decode samples in order. Unreadable ones raise `DataError`, or are skipped."""
        skipped = 0
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(samples), _AHEAD):
                chunk = samples[start : start + _AHEAD]
                for sample, result in zip(chunk, pool.map(self._decode, chunk), strict=True):
                    if isinstance(result, RgbImage):
                        yield sample, result
                    elif self.skip_unreadable:
                        skipped += 1
                        _log.warning("skipped %s: %s", printable(sample.path), result)
                    else:
                        raise DataError(
                            f"{printable(sample.path)} cannot be read: {result}. Remove or replace "
                            "it, or pass --skip-unreadable"
                        )
        if skipped:
            _log.warning("%d of %d images were skipped: they cannot be read", skipped, len(samples))

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[tuple[Sample, RgbImage]]]:
        """Decode samples in batches that suit an inspection."""
        batch: list[tuple[Sample, RgbImage]] = []
        for pair in self.images(samples):
            batch.append(pair)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _decode(self, sample: Sample) -> RgbImage | ImageError | OSError:
        try:
            return decode_image(file_bytes(sample), canvas=self.canvas)
        except (ImageError, OSError) as error:
            return error


STRICT = Decoding()
