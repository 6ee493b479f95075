"""The training half of each task: what is true of an image, the loss of a batch, the figures.

One table, as in `supervised.tasks`. The loop (`training.finetune.loop`) knows no task: it reads
canvases, varies them, asks for the loss of a batch and for figures about answers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from anomaly.types import Placement
from supervised.network import SupervisedNetwork
from supervised.types import Answer, TaskName
from training.finetune.batch import LabelledBatch
from training.finetune.classification import ClassificationTraining
from training.finetune.config import LossConfig
from training.finetune.detection import DetectionTraining
from training.finetune.segmentation import SegmentationTraining
from training.samples import Sample


class TrainingTask(Protocol):
    """What the loop and the evaluation ask of a task."""

    def classes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Name the classes in the samples' labels, in order. Raises `DataError` if too few."""

    def truth(self, sample: Sample, placement: Placement, classes: tuple[str, ...]) -> Any:
        """Read what is true of a sample, on its canvas: called once for each image."""

    def prepare(self, network: SupervisedNetwork, truths: Sequence[Any]) -> None:
        """Look at all training truths before the first step, for class weights and the like."""

    def loss(self, network: SupervisedNetwork, batch: LabelledBatch) -> torch.Tensor:
        """Return the loss of a batch; called within autocast where that is on."""

    def figures(
        self, answers: Sequence[Answer], truths: Sequence[Any], classes: tuple[str, ...]
    ) -> dict[str, Any]:
        """Compare answers with what is true: figures for JSON."""


TRAINING: dict[TaskName, Callable[[LossConfig], TrainingTask]] = {
    "classification": ClassificationTraining,
    "detection": DetectionTraining,
    "segmentation": SegmentationTraining,
}
