"""Recipes of `maskline finetune`: TOML files into one frozen `FinetuneConfig`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from anomaly.errors import ConfigError
from supervised.types import TaskName
from training.config import read_recipe


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """What of the encoder is trained beside the head (He et al. 2022, appendix A and figure 9).

    `head` trains nothing of it (a probe), `last` its last `blocks` blocks and final norm, `all`
    everything but the frozen backbone of feature targets. A layer learns `layer_decay` times as
    fast as the one above it; residual branches are skipped with up to `drop_path`.
    """

    train: Literal["head", "last", "all"] = "all"
    blocks: int = 4
    layer_decay: float = 0.75
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ConfigError(f"tune.blocks is {self.blocks}; want 1 or more")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.drop_path < 1:
            raise ConfigError("tune.layer_decay wants more than 0 to 1, tune.drop_path 0 to 1")


@dataclass(frozen=True, slots=True)
class LossConfig:
    """How labels are softened and weighed; `mixup` and `cutmix` are for classification.

    Both are the parameters of a beta distribution, 0 for never; where both are set, each step draws
    which. `balance` weighs each kind by the inverse of its images.
    """

    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    balance: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"loss.smoothing is {self.smoothing}; want 0 to 1")
        if not 0 <= min(self.mixup, self.cutmix) <= max(self.mixup, self.cutmix) < math.inf:
            raise ConfigError("loss.mixup and loss.cutmix want 0 or more")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return max(self.mixup, self.cutmix) > 0


@dataclass(frozen=True, slots=True)
class VariationConfig:
    """How canvases are varied, anew at every step.

    `crop` is the range of the share of the canvas that is cut out and enlarged; flips are for parts
    that may lie either way; `shift` is a share of the side.
    """

    crop: tuple[float, float] = (1.0, 1.0)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    shift: float = 0.02
    brightness: float = 0.05
    contrast: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(f"variation.crop is {self.crop}; want 0 < low <= high <= 1")
        for name in ("shift", "brightness", "contrast"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(f"variation.{name} is {getattr(self, name)}; want 0 to 0.5")


@dataclass(frozen=True, slots=True)
class FinetuneOptimiser:
    """The optimiser: warm-up, half a cosine to zero, and of the weights an average if wished.

    `learning_rate` is the head's. A set of few images takes `steps` at the least, however few
    epochs of it are asked for. `ema_decay` 0 keeps the last weights.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    epochs: int = 100
    least_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: int = 5
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.batch_size % 2:
            raise ConfigError("optimiser wants epochs of 1 or more, and an even batch_size")
        if min(self.least_steps, self.warmup_epochs) < 0 or self.warmup_epochs > self.epochs:
            raise ConfigError("optimiser.warmup_epochs wants 0 to epochs, least_steps 0 or more")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ConfigError("optimiser.learning_rate wants more than 0, weight_decay 0 or more")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.momentum < 1 or self.clip_norm < 0:
            raise ConfigError("optimiser.ema_decay and momentum want 0 to 1, clip_norm 0 or more")

    def steps(self, images: int) -> int:
        """Return how many steps so many images take."""
        return max(self.least_steps, math.ceil(self.epochs * images / self.batch(images)))

    def batch(self, images: int) -> int:
        """Return the batch for so many images: even, and no larger than they are."""
        return max(2, min(self.batch_size, images // 2 * 2))


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """Where and how the run computes; decoded canvases are kept up to `cache_limit_gb`."""

    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 2
    cache_limit_gb: float = 4.0
    log_every: int = 10


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """A whole recipe; stored in the model's card.

    `canvas` 0 keeps the pretrained model's. `head` are settings of the task's head, by name.
    """

    task: TaskName = "classification"
    canvas: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    tune: TuneConfig = TuneConfig()
    loss: LossConfig = LossConfig()
    variation: VariationConfig = VariationConfig()
    optimiser: FinetuneOptimiser = FinetuneOptimiser()
    run: FinetuneRun = FinetuneRun()


def load_finetune(name: str, overrides: Iterable[str] = ()) -> FinetuneConfig:
    """Read a recipe by name or path and apply overrides; raises `RecipeError`."""
    return read_recipe(FinetuneConfig, name, overrides)
