"""Classification's training half: softened, mixed and weighed labels; recalls and confusion."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from timm.data.mixup import Mixup

from anomaly.types import Placement
from supervised.network import SupervisedNetwork
from supervised.types import Answer
from training.errors import DataError
from training.finetune.batch import LabelledBatch
from training.finetune.config import LossConfig
from training.samples import NORMAL, Sample, printable


class ClassificationTraining:
    """What the loop asks of classification; a truth is the index of a class, -1 for none."""

    def __init__(self, config: LossConfig) -> None:
        self._config = config
        self._weights: torch.Tensor | None = None  # (K,), by how rare a kind is

    def classes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Name the kinds in the samples' labels; good parts are a kind, and the first."""
        kinds = {sample.label for sample in samples}
        if len(kinds) < 2:
            raise DataError(f"{len(kinds)} kind(s) to tell apart; want two or more")
        return tuple(sorted(kinds, key=lambda kind: (kind != NORMAL, kind)))

    def truth(self, sample: Sample, placement: Placement, classes: tuple[str, ...]) -> int:
        """Return the index of the sample's kind."""
        if sample.label not in classes:
            raise DataError(
                f"{printable(sample.path)} is of the kind {printable(sample.label)}, which was not "
                "trained"
            )
        return classes.index(sample.label)

    def prepare(self, network: SupervisedNetwork, truths: Sequence[int]) -> None:
        """Weigh each kind by the inverse of its images; the mean weight of an image is 1."""
        counts = Counter(truths)
        kinds = len(network.classes)
        weights = [len(truths) / (len(counts) * max(1, counts[k])) for k in range(kinds)]
        self._weights = torch.tensor(weights) if self._config.balance else None

    def loss(self, network: SupervisedNetwork, batch: LabelledBatch) -> torch.Tensor:
        """Cross entropy with soft labels (He et al. 2022, table 9)."""
        pixels = batch.pixels
        truths = torch.tensor(batch.truths, device=pixels.device)
        kinds, smoothing = len(network.classes), self._config.smoothing
        if self._config.mixes and network.training:
            mixup = Mixup(  # type: ignore[no-untyped-call]
                self._config.mixup,
                self._config.cutmix,
                label_smoothing=smoothing,
                num_classes=kinds,
            )
            with _seeded(batch.generator):
                pixels, soft = mixup(pixels.clone(), truths)
        else:
            soft = F.one_hot(truths, kinds).float() * (1 - smoothing) + smoothing / kinds
        weights = None if self._weights is None else self._weights.to(pixels.device)
        logits: torch.Tensor = network(pixels)
        return F.cross_entropy(logits.float(), soft, weight=weights)

    def figures(
        self, answers: Sequence[Answer], truths: Sequence[int], classes: tuple[str, ...]
    ) -> dict[str, Any]:
        """Balanced accuracy, accuracy, recall of each kind, and the confusion matrix."""
        guesses = [classes.index(answer.classes[0].kind) for answer in answers]
        matrix = confusion_matrix(truths, guesses, labels=range(len(classes)))
        counts = matrix.sum(axis=1)
        recalls = {
            kind: float(matrix[i, i] / counts[i]) for i, kind in enumerate(classes) if counts[i]
        }
        return {
            "balanced_accuracy": float(np.mean(list(recalls.values()))),
            "accuracy": float(np.trace(matrix) / counts.sum()),
            "recall": recalls,
            "images": {kind: int(count) for kind, count in zip(classes, counts, strict=True)},
            "confusion": matrix.tolist(),  # rows are true, columns answered, as `classes`
            "classes": list(classes),
        }


@contextmanager
def _seeded(generator: np.random.Generator) -> Iterator[None]:
    """Let timm's Mixup, which draws from numpy's global state, draw what a step's seed says."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(generator.integers(2**32)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
