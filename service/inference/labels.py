"""Models of labels in this process: which version of each serves. Knows no HTTP.

They share the device, the queue and its bounds with the models of anomalies, and nothing else: they
have no threshold, no calibration and no record. A version in a folder serves from the start or from
`load` on; requests hold the version they began with.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from anomaly.errors import ModelCorrupt, ModelError, ScoreNotFinite
from anomaly.types import FloatArray, Placement
from service.errors import ModelUnknown
from supervised.bundle import SupervisedBundle, load_supervised, supervised_folders
from supervised.predictor import Predictor
from supervised.types import Answer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ServedLabels:
    """One version of a model of labels that answers; two versions are never one batch."""

    name: str
    bundle: SupervisedBundle
    predictor: Predictor

    def __str__(self) -> str:
        """Return the name, which labels metrics."""
        return self.name

    @property
    def cost(self) -> int:
        """Work items of one image: it goes through the encoder once."""
        return 1

    def answers(
        self, canvases: Sequence[FloatArray], placements: Sequence[Placement]
    ) -> list[Answer]:
        """Answer about (S, S, 3) canvases in [0, 1]."""
        pixels = torch.stack([torch.from_numpy(canvas) for canvas in canvases])
        return self.predictor.predict_canvases(pixels.permute(0, 3, 1, 2).contiguous(), placements)


class LabelModels:
    """Finds and loads models of labels; `note` is called before another version serves."""

    def __init__(
        self,
        models_dir: Path,
        device: torch.device,
        note: Callable[[SupervisedBundle], None] = lambda bundle: None,
    ) -> None:
        self._models_dir, self._device, self._note = models_dir, device, note
        self._folders: dict[str, Path] = {}
        self._serving: dict[str, ServedLabels] = {}
        self.broken: dict[str, ModelError] = {}
        self._loading = asyncio.Lock()

    @property
    def serving(self) -> Mapping[str, ServedLabels]:
        """The versions that serve now, by name."""
        return self._serving

    def load_all(self) -> None:
        """Load every model; one that cannot be loaded keeps no other from serving."""
        self._find_folders()
        for name in self._folders:
            try:
                self._switch(self._read(name))
            except ModelError as error:
                self.broken[name] = error
                _log.error("model %s is broken, and others serve: %s", name, error)

    def has(self, name: str | None) -> bool:
        """Whether a model of labels has that name, broken ones too."""
        return name in self._folders

    def find(self, name: str) -> ServedLabels:
        """Return the version that serves. Raises `ModelUnknown`, or what loading raised."""
        if name in self._serving:
            return self._serving[name]
        if name in self.broken:
            raise self.broken[name].with_traceback(None)
        raise ModelUnknown(f"no model of labels is called {name!r}")

    async def discovered(self, name: str) -> bool:
        """Whether a model of labels has that name by now; looks at the folders again."""
        if name not in self._folders:
            await asyncio.to_thread(self._find_folders)
        return name in self._folders

    async def load(self, name: str) -> ServedLabels:
        """Read and warm the version in the folder; it serves from then on.

        Raises what loading raises; the version before then goes on.
        """
        async with self._loading:
            served = await asyncio.to_thread(self._read, name)
            await asyncio.to_thread(self._note, served.bundle)
            self._switch(served)
        return served

    def _switch(self, served: ServedLabels) -> None:
        self.broken.pop(served.name, None)
        self._serving[served.name] = served
        bundle = served.bundle
        _log.info("model %s serves labels, version %s", served.name, bundle.version)

    def _read(self, name: str) -> ServedLabels:
        bundle = replace(load_supervised(self._folders[name]), name=name)
        predictor = Predictor(bundle, self._device)
        side = bundle.config.encoder.preprocess.canvas
        try:
            predictor.predict_canvases(torch.zeros(1, 3, side, side), [Placement.filling(side)])
        except ScoreNotFinite as error:
            raise ModelCorrupt(
                f"the model in {self._folders[name]} gives no number for an empty image; train it "
                "again, or copy the whole folder again"
            ) from error
        return ServedLabels(name, bundle, predictor)

    def _find_folders(self) -> None:
        for folder in supervised_folders(self._models_dir):
            self._folders.setdefault(folder.absolute().name, folder)
