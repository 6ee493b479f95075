"""One version of a model that serves, and the versions of one model by name."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anomaly.bundle import Bundle
from anomaly.detector import Detector
from anomaly.errors import ModelError
from anomaly.model import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One version of a model that answers requests; two versions are never one batch."""

    name: str
    bundle: Bundle
    detector: Detector
    megabytes: float
    digests: Mapping[str | None, str] = field(default_factory=dict)  # of calibrations, by camera

    def judged_by(self, camera: str | None) -> str:
        """Digest of the calibration that judges a camera's parts."""
        return self.digests.get(camera) or self.digests[None]

    def __str__(self) -> str:
        """Return the name, which labels metrics."""
        return self.name

    @property
    def thresholds(self) -> Mapping[str, float]:
        """What each of its calibrations lets pass, by digest."""
        detector = self.detector
        return {
            self.judged_by(camera): detector.calibration_of(camera).threshold
            for camera in (None, *detector.cameras)
        }

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.bundle.model.config

    @property
    def cost(self) -> int:
        """Work items of one image: windows × masks."""
        return cost_of(self.bundle)


@dataclass(slots=True)
class Slot:
    """One model by name; without an `active` version it is read when it is asked for."""

    name: str
    folder: Path
    active: ServedModel | None = None
    previous: ServedModel | None = None
    staged: ServedModel | None = None
    failure: ModelError | None = None  # why it could not be read, while nothing serves
    tried: float = -math.inf
    used: float = 0.0
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def versions(self) -> dict[str, str | None]:
        """Its name, and which version serves, which waits, which went before."""

        def version(model: ServedModel | None) -> str | None:
            return None if model is None else model.bundle.version

        return {
            "name": self.name,
            "active": version(self.active),
            "staged": version(self.staged),
            "previous": version(self.previous),
        }

    @property
    def megabytes(self) -> float:
        """Memory of all its versions."""
        versions = (self.active, self.previous, self.staged)
        return sum(version.megabytes for version in versions if version is not None)


def cost_of(bundle: Bundle) -> int:
    """Work items of one image: windows × masks."""
    masking = bundle.model.config.scoring.masking
    return len(bundle.model.window_indices) * masking.repeats * masking.parts
