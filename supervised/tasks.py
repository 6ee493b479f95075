"""The tasks that there are: one table, from a model's `kind` to its network and head settings.

A task is added by its module and one line here; its training half is in `training.finetune.tasks`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anomaly.config import from_dict
from anomaly.errors import ConfigError
from supervised.boxes import BoxConfig, BoxDetector
from supervised.classifier import Classifier, ClassifierConfig
from supervised.encoder import Encoder, EncoderConfig
from supervised.network import SupervisedNetwork
from supervised.segmenter import MaskConfig, Segmenter
from supervised.types import TaskName

MOST_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of network; `head` is the frozen dataclass of its head's settings.

    `network` builds it from an encoder, the classes in order, and those settings.
    """

    head: type[Any]
    network: Callable[[Encoder, tuple[str, ...], Any], SupervisedNetwork]


TASKS: dict[TaskName, Task] = {
    "classification": Task(ClassifierConfig, Classifier),
    "detection": Task(BoxConfig, BoxDetector),
    "segmentation": Task(MaskConfig, Segmenter),
}


@dataclass(frozen=True, slots=True)
class SupervisedConfig:
    """Everything that decides what a model of labels computes; stored in its manifest.

    `classes` are in the order of the network's outputs; `head` holds the settings of the task's
    head, by name.
    """

    task: TaskName
    classes: tuple[str, ...]
    encoder: EncoderConfig = EncoderConfig()
    head: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; want one of {', '.join(TASKS)}")
        if not 1 <= len(self.classes) <= MOST_CLASSES or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes want 1 to {MOST_CLASSES} different names")


def build_network(config: SupervisedConfig, encoder: Encoder | None = None) -> SupervisedNetwork:
    """Build the network of a configuration, on a trained `encoder` or with weights to be loaded.

    Raises `ConfigError` where the head's settings make no sense.
    """
    task = TASKS[config.task]
    head = from_dict(task.head, config.head, "head.")
    encoder = Encoder.empty(config.encoder) if encoder is None else encoder
    return task.network(encoder, config.classes, head)
