"""Recipes: TOML files into one frozen `TrainConfig`, with `--set key=value` on top."""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from anomaly.config import from_dict
from anomaly.errors import ConfigError
from anomaly.masking import MASK_KINDS, MaskKind
from anomaly.model import ModelConfig
from training.errors import RecipeError

T = TypeVar("T")
_SMALLEST_BATCH = 8
_RECIPES = resources.files("training") / "recipes"
FINETUNE = "finetune-"  # recipes of training.finetune begin with it


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How training images are varied.

    `copies` altered copies of each image join the original; they are drawn once, so that backbone
    features can be cached. `fresh` draws a new copy at every step instead, which needs the backbone
    at every step. Flips are for parts that may lie either way. `crop` is the range of the share of
    the image's area that is cut out at random, for pretraining on many products; (1, 1) keeps all.
    `compression` are two JPEG qualities: a copy of each 8-bit image, compressed at one between
    them, joins it in training and in calibration, where the two count once.
    """

    copies: int = 0
    fresh: bool = False
    crop: tuple[float, float] = (1.0, 1.0)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    shift: float = 0.02
    brightness: float = 0.05
    contrast: float = 0.05
    compression: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.copies < 0:
            raise ConfigError(f"augment.copies is {self.copies}; want 0 or more")
        if not 0 <= max(self.shift, self.brightness, self.contrast) < 0.5:
            raise ConfigError("augment.shift, brightness and contrast want 0 to 0.5")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(f"augment.crop is {self.crop}; want 0 < low <= high <= 1")
        if self.compression and not (
            len(self.compression) == 2 and 1 <= self.compression[0] <= self.compression[1] <= 100
        ):
            raise ConfigError(
                f"augment.compression is {self.compression}; want two JPEG qualities, 1 <= low "
                "<= high <= 100"
            )
        if self.crops and not self.fresh:
            raise ConfigError("augment.crop needs augment.fresh: a crop is drawn at every step")

    @property
    def crops(self) -> bool:
        """Whether less than the whole image may be seen."""
        return self.crop[0] < 1

    @property
    def moves(self) -> bool:
        """Whether pixels change places."""
        return self.flip_horizontal or self.flip_vertical or self.shift > 0


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """AdamW with warm-up, cosine decay, clipping and an average of the weights.

    `epochs` bounds how often each image is seen: a set of few images takes fewer `steps`, no batch
    holds more than half of them, and warm-up and average shrink with the steps (0: no bound).
    """

    steps: int = 900
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    epochs: int = 0

    def bounded(self, images: int) -> "OptimiserConfig":
        """Return the same for so many images, with fewer steps where they are few."""
        if not self.epochs:
            return self
        batch_size = min(self.batch_size, max(_SMALLEST_BATCH, images // 2))
        share = min(1.0, self.epochs * images / batch_size / self.steps)
        if share == 1 and batch_size == self.batch_size:
            return self
        return replace(
            self,
            batch_size=batch_size,
            steps=math.ceil(share * self.steps),
            warmup_steps=round(share * self.warmup_steps),
            ema_decay=max(0.0, 1 - (1 - self.ema_decay) / share),
        )

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise ConfigError("optimiser.steps and optimiser.batch_size must be 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"optimiser.ema_decay is {self.ema_decay}; want 0 to 1")


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """What is minimised: masked prediction with a ratio drawn anew for each batch.

    `masks` says which patches are hidden together (`anomaly.masking.training_masks`).
    `decode_share` of the hidden tokens are decoded (the query decoder's cost follows it).
    """

    mask_ratio: tuple[float, float] = (0.5, 0.8)
    masks: MaskKind = "random"
    decode_share: float = 0.5
    cosine_weight: float = 1.0
    l2_weight: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ConfigError(
                f"objective.mask_ratio is {self.mask_ratio}; want 0 < low <= high < 1"
            )
        if self.masks not in MASK_KINDS:
            raise ConfigError(f"objective.masks is {self.masks!r}; want one of {MASK_KINDS}")
        if not 0 < self.decode_share <= 1:
            raise ConfigError(f"objective.decode_share is {self.decode_share}; want 0 to 1")
        if min(self.cosine_weight, self.l2_weight) < 0 or not self.cosine_weight + self.l2_weight:
            raise ConfigError("objective needs a positive cosine_weight or l2_weight")


@dataclass(frozen=True, slots=True)
class EvidenceConfig:
    """How the memory and the repair head are fitted once the autoencoder is trained.

    `patches` bounds how many patches of normal images are looked at, and as many of corrupted
    copies, of which each image has up to `copies`; each head takes `steps` of `batch_size` cells, a
    quarter of them corrupted.
    """

    patches: int = 300_000
    copies: int = 3
    steps: int = 1000
    batch_size: int = 4096
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.patches, self.copies, self.steps) < 1 or self.batch_size < 4:
            raise ConfigError("evidence wants patches, copies, steps of 1, batch_size of 4 or more")


@dataclass(frozen=True, slots=True)
class DetailConfig:
    """How the detail head is trained, where `model.scoring.detail_width` says that there is one.

    `copies` counts corrupted canvases of 224 × 224 pixels; of larger ones there are fewer, by area,
    and of each image no more than `copies_each`. Each step sees `batch_size` squares of `crop`
    canvas pixels.
    """

    copies: int = 600
    copies_each: int = 10
    steps: int = 1500
    batch_size: int = 8
    crop: int = 112
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if min(self.copies, self.copies_each, self.crop, self.steps) < 1 or self.batch_size < 2:
            raise ConfigError("detail wants copies, crop and steps of 1, batch_size of 2 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"detail.learning_rate is {self.learning_rate}; want more than 0")


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """What is decided from the training images before training.

    The canvas is the smallest of `canvases` unless a larger one, no larger than the images are,
    tells drawn defects of `images` training images better: each doubling of the pixels, and so of
    an inspection's time, must bring `gain` of recall. Canvases on which this machine needs more
    than `max_ms` for an image (0: no bound) are left out. Without `canvases`,
    `model.preprocess.canvas` holds. Images that are `long` times as long as they are wide, or
    longer, are cut in bands (0: never, and neither where `model.preprocess.bands` says how many).
    """

    canvases: tuple[int, ...] = ()
    images: int = 60
    gain: float = 0.03
    max_ms: float = 0.0
    long: float = 3.0

    def __post_init__(self) -> None:
        if self.images < 8:
            raise ConfigError(f"plan.images is {self.images}; want 8 or more")
        if not 0 <= self.max_ms < math.inf:
            raise ConfigError(f"plan.max_ms is {self.max_ms}; want milliseconds, or 0 for no bound")
        if not (self.long == 0 or 2 <= self.long < math.inf):
            raise ConfigError(f"plan.long is {self.long}; want 2 or more, or 0 for never")


@dataclass(frozen=True, slots=True)
class CrossfitConfig:
    """When every normal part trains and calibrates (`training.crossfit`), and by how many models.

    With `folds` (0: never) that many more models are trained. Sets of more independent `groups`
    than this hold a part out instead: there it would take too long, and enough remain.
    """

    folds: int = 0
    groups: int = 100

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"crossfit.folds is {self.folds}; want 2 or more, or 0 for none")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where and how the run computes; none of it changes what is learned but `seed`.

    `at_once` images of a process's batch go through the autoencoder together, 0 for as many as
    memory holds; the gradients of the batch are the same. Up to the share `unreadable` of the
    images may be damaged: they are replaced by others, counted and named in the log. A stream of
    shards is shuffled within a buffer of `shuffle` images. `mlflow` is where an MLflow server or
    folder is, empty for none.

    Tokens of images are kept where they take no more than `cache_limit_gb`; where they do not fit
    or images vary at every step, decoded images are kept on the disk up to `decoded_limit_gb`.

    `export` adds an ONNX graph to a calibrated model: `auto` where this machine has no GPU and the
    graph is faster than torch.
    """

    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    workers: int = 2
    at_once: int = 0
    unreadable: float = 0.0
    shuffle: int = 2000
    checkpoint_every: int = 200
    log_every: int = 20
    cache_limit_gb: float = 4.0
    decoded_limit_gb: float = 20.0
    tensorboard: bool = True
    mlflow: str = ""
    export: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole recipe; stored in the model's card."""

    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    detail: DetailConfig = DetailConfig()
    plan: PlanConfig = PlanConfig()
    crossfit: CrossfitConfig = CrossfitConfig()
    run: RunConfig = RunConfig()

    def bounded(self, images: int) -> "TrainConfig":
        """Return the recipe for so many images, which are seen no more often than it allows.

        The repair head's steps shrink as the autoencoder's do, for the same reason; the detail
        head's shrink by the root, since every copy of an image has other defects.
        """
        optimiser = self.optimiser.bounded(images)
        if optimiser is self.optimiser:
            return self
        share = optimiser.steps / self.optimiser.steps
        evidence = replace(self.evidence, steps=math.ceil(share * self.evidence.steps))
        detail = replace(self.detail, steps=math.ceil(math.sqrt(share) * self.detail.steps))
        return replace(self, optimiser=optimiser, evidence=evidence, detail=detail)


def without_detail(config: TrainConfig) -> TrainConfig:
    """Return the recipe of a model that gathers the same evidence and draws no details."""
    scoring = replace(config.model.scoring, detail_width=0)
    return replace(config, model=replace(config.model, scoring=scoring))


def recipe_names() -> list[str]:
    """Return the recipes of models of anomalies that come with Maskline."""
    return [name for name in _names() if not name.startswith(FINETUNE)]


def finetune_names() -> list[str]:
    """Return the recipes of models of labels that come with Maskline."""
    return [name for name in _names() if name.startswith(FINETUNE)]


def _names() -> list[str]:
    return sorted(Path(e.name).stem for e in _RECIPES.iterdir() if e.name.endswith(".toml"))


def load_recipe(name: str = "default", overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a recipe by name or path and apply `key.sub=value` overrides, values in TOML.

    Raises `RecipeError` naming the key or value that is wrong.
    """
    return read_recipe(TrainConfig, name, overrides)


def read_recipe(cls: type[T], name: str, overrides: Iterable[str]) -> T:
    """Read a recipe of any configuration; raises `RecipeError`."""
    values = _read(name)
    values.pop("sweep", None)
    for override in overrides:
        _apply(values, override)
    try:
        return from_dict(cls, values)
    except ConfigError as error:
        raise RecipeError(f"recipe {name!r}: {error}") from error


def load_sweep(name: str) -> dict[str, Any]:
    """Return what a recipe lets a sweep vary: setting to range. Raises `RecipeError` if nothing."""
    ranges = _read(name).get("sweep", {})
    if not ranges:
        raise RecipeError(
            f"recipe {name!r} declares nothing to vary; give it a [sweep] table, such as "
            '"optimiser.learning_rate" = {low = 1e-4, high = 3e-3, log = true}'
        )
    return dict(ranges)


def _read(name: str) -> dict[str, Any]:
    packaged = _RECIPES / f"{name}.toml"
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        names = ", ".join(_names())
        raise RecipeError(f"no recipe {name!r}: neither a file nor one of {names}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name!r} is not valid TOML: {error}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"override {override!r} is not of the form key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, last = key.strip().split(".")
    table: Any = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, Mapping):
            raise RecipeError(f"override {override!r}: {part!r} is a value, not a table")
    table[last] = value
