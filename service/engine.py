"""The models of this process and the one thread that runs them. Knows no HTTP."""

import asyncio
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anomaly.bundle import Bundle, load_bundle, model_folders
from anomaly.detector import Detector
from anomaly.device import choose_device
from anomaly.errors import ModelNotFound
from anomaly.model import ModelConfig
from anomaly.types import Detection, FloatArray, Placement
from service.batching import (
    Batcher,
    BatchingConfig,
    Events,
    Outcome,
    Priority,
    TooMuchAtOnce,
)
from service.errors import InferenceFailed, ModelUnknown
from service.metrics import Metrics
from service.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """One decoded and placed image: (S, S, 3) float32 in [0, 1]."""

    canvas: FloatArray
    placement: Placement


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers requests."""

    name: str
    bundle: Bundle
    detector: Detector

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.bundle.model.config

    @property
    def cost(self) -> int:
        """Work items of one image: windows × masks."""
        masking = self.config.scoring.masking
        return len(self.bundle.model.places) * masking.repeats * masking.parts


class Engine:
    """Loads and warms every model, then runs batches in one thread."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.device = choose_device(settings.device)
        self.models = load_models(settings.models_dir, self.device)
        self.default_name = self._default_name(settings)
        self._stall_after_s = settings.stall_after_s
        self._warm_up(settings.max_batch_items)
        config = BatchingConfig(
            settings.max_batch_items, settings.max_queue_size, settings.max_queue_delay_ms / 1000
        )
        self.batcher: Batcher[Work, Detection] = Batcher(self._run, config, events=_events(metrics))
        self._publish(metrics, settings)

    @property
    def is_ready(self) -> bool:
        """Whether a request could be answered now: inference runs, and no batch hangs."""
        return self.batcher.is_alive and self.batcher.busy_s < self._stall_after_s

    def seconds_for(self, requests: int) -> float:
        """How long this many images of the dearest model take."""
        dearest = max(model.cost for model in self.models.values())
        return self.batcher.seconds_for(requests * dearest)

    def resolve(self, name: str | None) -> ServedModel:
        """Find the model a request means; raises `ModelUnknown`."""
        wanted = name or self.default_name
        known = ", ".join(sorted(self.models))
        if wanted in self.models:
            return self.models[wanted]
        if wanted is None:
            raise ModelUnknown(f"several models are loaded, name one of them with 'model': {known}")
        raise ModelUnknown(f"no model is called {wanted!r}; loaded are: {known}")

    def _default_name(self, settings: Settings) -> str | None:
        """The model for requests that name none: the only one, or the one the settings name."""
        if settings.default_model is None:
            return next(iter(self.models)) if len(self.models) == 1 else None
        if settings.default_model not in self.models:
            raise ModelNotFound(
                f"MASKLINE_DEFAULT_MODEL is {settings.default_model!r}, but "
                f"{settings.models_dir} has only {', '.join(sorted(self.models))}"
            )
        return settings.default_model

    async def detect(
        self, model: ServedModel, work: Work, *, priority: Priority, deadline: float
    ) -> Outcome[Detection]:
        """Queue one image and wait for its detection; leaving the wait cancels queued work."""
        future = self.batcher.submit(
            model.name, work, cost=model.cost, priority=priority, deadline=deadline
        )
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what waits and stop the thread."""
        self.batcher.close()

    def _run(self, key: Hashable, works: Sequence[Work]) -> list[Detection]:
        detector = self.models[str(key)].detector
        canvases = torch.from_numpy(np.stack([work.canvas for work in works]))
        pixels = canvases.permute(0, 3, 1, 2).contiguous()  # (B, 3, S, S)
        try:
            return detector.detect_canvases(pixels, [work.placement for work in works])
        except Exception as error:
            if is_out_of_memory(error):
                raise TooMuchAtOnce(
                    "the image does not fit the device's memory; try again"
                ) from error
            raise InferenceFailed("the model failed on this image; see the log") from error

    def _warm_up(self, most_items: int) -> None:
        for model in self.models.values():
            side = model.detector.model.config.preprocess.canvas
            place = Placement((side, side), (side, side), (0, 0, side, side))
            for size in (1, max(1, most_items // model.cost)):
                model.detector.detect_canvases(torch.zeros(size, 3, side, side), [place] * size)

    def _publish(self, metrics: Metrics, settings: Settings) -> None:
        metrics.batch_limit.set(settings.max_batch_items)
        metrics.watch_queue(lambda: self.batcher.depth, settings.max_queue_size)
        for model in self.models.values():
            metrics.model_info.labels(model.name, model.bundle.version, model.bundle.digest).set(1)
            metrics.model_ready.labels(model.name).set_function(lambda: float(self.is_ready))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or its allocator had no memory left; frees what torch caches on a GPU."""
    said = str(error).lower()
    found = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "alloc" in said and "memory" in said
    )
    if found and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _events(metrics: Metrics) -> Events:
    return Events(
        batch=lambda key, size: metrics.batch_size.labels(str(key)).observe(size),
        limit=metrics.batch_limit.set,
        too_much=lambda key: metrics.out_of_memory.labels(str(key)).inc(),
    )


def load_models(folder: Path, device: torch.device) -> dict[str, ServedModel]:
    """Load the model in `folder`, or every model in its subfolders, checked on `device`."""
    paths = model_folders(folder)
    if not paths:
        raise ModelNotFound(
            f"no model in {folder.absolute()}; point MASKLINE_MODELS_DIR (or --models) at a folder "
            "that 'maskline train' and 'maskline calibrate' wrote"
        )
    return {path.absolute().name: _load(path, device) for path in paths}


def _load(path: Path, device: torch.device) -> ServedModel:
    bundle = load_bundle(path)
    name = path.absolute().name
    _log.info("loaded model %s version %s from %s", name, bundle.version, path)
    return ServedModel(name, bundle, bundle.detector(device))
