"""Decoded canvases and what is true of each; batches are read a step ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from anomaly.image import decode_image
from anomaly.preprocess import PreprocessConfig, place
from anomaly.types import Placement
from training.compression import file_bytes
from training.decoding import Decoding
from training.finetune.config import FinetuneRun
from training.finetune.tasks import TrainingTask
from training.images import channels_first
from training.progress import Progress
from training.samples import Sample


@dataclass(frozen=True, slots=True)
class Examples:
    """Samples with their placements and truths; `canvases` are None where they do not fit."""

    samples: tuple[Sample, ...]
    placements: tuple[Placement, ...]
    truths: tuple[Any, ...]
    canvases: torch.Tensor | None  # (N, 3, S, S) float16
    preprocess: PreprocessConfig
    threads: int

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, steps: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yield the canvases (B, 3, S, S) float32 of each step's indices, one step ahead."""
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(self.threads) as readers:
            pending = ahead.submit(self._batch, steps[0], readers) if steps else None
            for following in [*steps[1:], None]:
                assert pending is not None
                ready, pending = pending.result(), None
                if following is not None:
                    pending = ahead.submit(self._batch, following, readers)
                yield ready

    def _batch(self, indices: Sequence[int], readers: ThreadPoolExecutor) -> torch.Tensor:
        if self.canvases is not None:
            return self.canvases[torch.as_tensor(indices)].float()
        return torch.stack(list(readers.map(self._read, (self.samples[i] for i in indices))))

    def _read(self, sample: Sample) -> torch.Tensor:
        image = decode_image(file_bytes(sample), canvas=self.preprocess.canvas)
        return channels_first(place(image, self.preprocess)[0])


def read_examples(
    samples: Sequence[Sample],
    task: TrainingTask,
    classes: tuple[str, ...],
    *,
    preprocess: PreprocessConfig,
    run: FinetuneRun,
    progress: Progress,
) -> Examples:
    """Decode every image once; raises `DataError` for one that cannot be read."""
    side = preprocess.canvas
    fits = 2 * 3 * side**2 * len(samples) <= run.cache_limit_gb * 1e9
    canvases = torch.empty(len(samples), 3, side, side, dtype=torch.float16) if fits else None
    placements, truths = [], []
    images = Decoding(threads=run.threads).on(side).images(samples)
    shown = progress.each(images, "reading", total=len(samples), unit="image")
    for index, (sample, image) in enumerate(shown):
        canvas, placement = place(image, preprocess)
        if canvases is not None:
            canvases[index] = channels_first(canvas)
        placements.append(placement)
        truths.append(task.truth(sample, placement, classes))
    return Examples(
        tuple(samples), tuple(placements), tuple(truths), canvases, preprocess, run.threads
    )
