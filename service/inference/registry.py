"""The models of this process: which version serves, which waits, which went before.

A version is read, held to its golden scores and warmed up in a thread of its own while the one
before serves; then one assignment switches. Requests hold the version they began with. All methods
but the first load run on the event loop, so that nothing here needs a lock but the loading itself.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anomaly.bundle import Bundle, load_bundle, model_folders, save_bundle, stored_version
from anomaly.detector import Detector
from anomaly.device import give_back_memory
from anomaly.errors import ModelError, ModelNotFound
from anomaly.manifest import MANIFEST
from service.errors import (
    ModelUnknown,
    NoModel,
    NothingPrevious,
    NothingStaged,
    PlaceRefused,
    VersionChanged,
    VersionWaits,
)
from service.events import Publish, unheard
from service.inference.model_memory import ModelMemory
from service.inference.model_reader import ModelReader
from service.inference.served_model import ServedModel, Slot
from service.inference.version_archive import Archive, ChosenVersion

_log = logging.getLogger(__name__)
_AGAIN_S = 10.0  # after a model could not be read, requests for it try as often


class Note(Protocol):
    """Writes down a change that is about to happen."""

    def __call__(self, action: str, name: str, bundle: Bundle, **details: Any) -> None:
        """Raise what keeps the change from happening."""


Gate = Callable[[ServedModel], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where models lie, which one serves unnamed requests, how much memory they may take."""

    models_dir: Path
    default_model: str | None = None
    memory: ModelMemory = ModelMemory()


class Registry:
    """Finds, loads and switches models; `changed()` is called after a switch.

    An event `model` is published of each whose versions are others than before.
    """

    def __init__(
        self,
        config: RegistryConfig,
        prepare: Callable[[Bundle], Detector],
        changed: Callable[[], None] = lambda: None,
        note: Note = lambda action, name, bundle, **details: None,
        *,
        publish: Publish = unheard,
    ) -> None:
        self._config = config
        self._memory = config.memory
        self._changed = changed
        self._note = note
        self._publish = publish
        self._published: dict[str, dict[str, str | None]] = {}  # versions, by model
        self.archive = Archive(config.models_dir)
        self._reader = ModelReader(self.archive, config.memory, prepare)
        self.slots: dict[str, Slot] = {}
        self.find_folders()
        # Until a restart: a folder that appears meanwhile takes no request away from it.
        self.default_name = _default_of(config, sorted(self.slots))
        self.awaits_first = not self.slots

    @property
    def models_dir(self) -> Path:
        """The folder that models are looked for in."""
        return self._config.models_dir

    @property
    def active(self) -> list[ServedModel]:
        """The versions that serve now."""
        return [slot.active for slot in self.slots.values() if slot.active is not None]

    def load_all(self) -> None:
        """Load every model, as far as the memory goes; the rest is loaded when it is asked for.

        Called once, before requests come. A model that cannot be loaded does not keep the others
        from serving; raises what loading raises where it is the default one, or where none is left.
        """
        failed: ModelError | None = None
        for slot in self.slots.values():
            if not self._memory.has_room(self.slots.values(), self._memory.needs(slot.folder)):
                _log.info("model %s is loaded when it is asked for: memory is full", slot.name)
                continue
            try:
                slot.active = self._reader.read_chosen(slot)
            except ModelError as error:
                if slot.name == self.default_name:
                    raise
                failed = slot.failure = error
                slot.tried = time.monotonic()
                _log.error("model %s is broken, and others serve: %s", slot.name, error)
                continue
            self._note("start", slot.name, slot.active.bundle)
        if failed is not None and not self.active:
            raise failed
        self._changed()
        self._tell()

    def no_model(self) -> NoModel | None:
        """Say that there is no first model yet; None where there is one."""
        return NoModel(_no_model(self._config.models_dir)) if self.awaits_first else None

    def find(self, name: str | None) -> Slot:
        """Find the model that a request means; raises `ModelUnknown`, or `NoModel` before any."""
        model_name = name or self.default_name
        names = ", ".join(sorted(self.slots))
        if model_name in self.slots:
            return self.slots[model_name]
        if (missing := self.no_model()) is not None:
            raise missing
        if model_name is None:
            raise ModelUnknown(f"there are several models, name one of them with 'model': {names}")
        raise ModelUnknown(f"no model is called {model_name!r}; there are: {names}")

    async def acquire(self, name: str | None) -> ServedModel:
        """Return the version that serves now, loading it if it was evicted.

        Raises `ModelUnknown` or what loading raises; a broken model is read again every ten seconds
        at most.
        """
        slot = self.find(name)
        slot.used = time.monotonic()
        if slot.active is not None:
            return slot.active
        async with slot.loading:
            if slot.active is None:
                if slot.failure is not None and time.monotonic() - slot.tried < _AGAIN_S:
                    raise slot.failure.with_traceback(None)
                slot.active = await self._read_again(slot)
                self._welcome(slot)
                self._make_room(slot, 0)
                self._changed()
            return slot.active

    async def _read_again(self, slot: Slot) -> ServedModel:
        slot.tried = time.monotonic()
        self._make_room(slot, self._memory.needs(slot.folder))
        try:
            served = await asyncio.to_thread(self._reader.read_chosen, slot)
        except ModelError as error:
            slot.failure = error
            raise
        slot.failure = None
        return served

    async def load(self, name: str) -> Slot:
        """Read and stage the version in the model's folder; what serves goes on serving."""
        if name not in self.slots:
            self.find_folders()
        slot = self.find(name)
        async with slot.loading:
            self._make_room(slot, self._memory.needs(slot.folder))
            slot.staged = await asyncio.to_thread(self._reader.read, slot, slot.folder)
        self._tell()
        return slot

    async def recalibrate(
        self, name: str, base: ServedModel, bundle: Bundle, **details: Any
    ) -> Slot:
        """Save the serving version with another calibration, and stage it.

        Until it is activated the version before serves, also after a restart. Raises
        `VersionWaits`, `ModelNotSaved` or what loading raises.
        """
        slot = self.find(name)
        async with slot.loading:
            version, choice = bundle.version, self.archive.chosen(name)
            if slot.active is not base:
                raise VersionWaits(f"another version of {name!r} serves by now; calibrate that one")
            self._check_nothing_waits(slot, base)
            await asyncio.to_thread(self._note, "calibrate", name, bundle, **details)
            self.archive.choose(name, ChosenVersion(base.bundle.version, version))
            try:
                await asyncio.to_thread(save_bundle, bundle, slot.folder, version)
            except ModelError:
                self.archive.choose(name, choice)
                raise
            slot.staged = await asyncio.to_thread(self._reader.read, slot, slot.folder)
        self._tell()
        return slot

    def check_place(self, name: str) -> None:
        """Raise `PlaceRefused` where a model of that name could not be put among the others."""
        models = self._config.models_dir.absolute()
        if (models / MANIFEST).is_file() and name != models.name:
            raise PlaceRefused(
                f"{models} is the folder of one model, {models.name!r}; point MASKLINE_MODELS_DIR "
                "at a folder of models to have others"
            )
        parent = models.parent if name == models.name and name in self.slots else models
        while not parent.exists():
            parent = parent.parent
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PlaceRefused(f"{parent} cannot be written to: a trained model has no place there")

    async def adopt(self, name: str, trained: Path, **details: Any) -> Slot:
        """Put a trained model among the others, and stage it; what serves goes on serving.

        That holds after a restart, too. Doing it again changes nothing. Raises `PlaceRefused`,
        `VersionWaits`, `ModelNotSaved` or what loading raises.
        """
        self.check_place(name)
        slot = self.slots.get(name) or Slot(name, self._config.models_dir / name)
        bundle = await asyncio.to_thread(load_bundle, trained)
        if slot.name in self.slots:
            with suppress(ModelError):  # nothing serves that could go on
                await self.acquire(name)
        async with slot.loading:
            active = slot.active
            if active is not None and active.bundle.version == bundle.version:
                return slot
            if active is not None:
                self._check_nothing_waits(slot, active)
            await asyncio.to_thread(self._note, "train", name, bundle, **details)
            if active is not None:
                choice = ChosenVersion(active.bundle.version, bundle.version)
                self.archive.choose(name, choice)
            await asyncio.to_thread(save_bundle, bundle, slot.folder, bundle.version)
            slot.staged = await asyncio.to_thread(self._reader.read, slot, slot.folder)
        registered = self.slots.setdefault(name, slot)  # a watch may have found the folder
        if registered is not slot and registered.active is None:
            registered.staged = slot.staged
        return registered

    def _check_nothing_waits(self, slot: Slot, active: ServedModel) -> None:
        """Raise `VersionWaits` where a version that nobody chose against would be replaced."""
        lying = stored_version(slot.folder)
        if lying != active.bundle.version and not self.archive.is_chosen_against(slot.name, lying):
            raise VersionWaits(
                f"version {lying} of {slot.name!r} lies in the models' folder and does not serve; "
                "load and activate it first, or take it away"
            )

    async def activate(
        self, name: str, *, gate: Gate | None, version: str | None = None, **details: Any
    ) -> Slot:
        """Let the staged version serve; the one before is kept.

        `gate` is asked about it first, and raises what forbids it; None lets any version pass.
        Raises `NothingStaged`, or `VersionChanged` where `version` is another or it was replaced
        meanwhile.
        """
        slot = self.find(name)
        staged = slot.staged
        _check_meant(staged, version)
        if staged is not None and gate is not None:
            await gate(staged)
        if slot.staged is not staged:
            _check_meant(slot.staged, None if staged is None else staged.bundle.version)
        if staged is None or slot.staged is not staged:
            raise NothingStaged(f"no version of {name!r} is staged; POST /v1/models/{name}:load")
        slot.staged = None  # taken: nobody else switches to it while this is written down
        try:
            await asyncio.to_thread(self._note, "activate", name, staged.bundle, **details)
        except BaseException:
            slot.staged = slot.staged or staged
            raise
        if slot.active is None or staged.bundle.digest != slot.active.bundle.digest:
            slot.previous = slot.active
        slot.active = staged
        slot.failure = None
        self.archive.choose(name, None)
        self._switched(slot)
        await asyncio.to_thread(give_back_memory)  # what the version before the last one held
        return slot

    async def rollback(self, name: str, *, version: str | None = None, **details: Any) -> Slot:
        """Let the version before serve again, also after a restart.

        Raises `NothingPrevious`, or `VersionChanged` where `version` is another.
        """
        slot = self.find(name)
        previous = slot.previous
        _check_meant(previous, version)
        if previous is None:
            raise NothingPrevious(f"{name!r} has no version before the one that serves")
        instead_of = await asyncio.to_thread(stored_version, slot.folder)
        await asyncio.to_thread(self._note, "rollback", name, previous.bundle, **details)
        if slot.previous is not previous:
            raise NothingPrevious(f"another version of {name!r} was activated meanwhile")
        slot.active, slot.previous = previous, slot.active
        self.archive.choose(name, ChosenVersion(previous.bundle.version, instead_of))
        self._switched(slot)
        return slot

    async def discard(self, name: str, *, version: str | None = None, **details: Any) -> Slot:
        """Let the staged version go, and the one that serves go on serving, also after a restart.

        Raises `NothingStaged`, or `VersionChanged` where `version` is another.
        """
        slot = self.find(name)
        async with slot.loading:
            staged = slot.staged
            _check_meant(staged, version)
            if staged is None:
                raise NothingStaged(
                    f"no version of {name!r} is staged; there is nothing to discard"
                )
            lying = await asyncio.to_thread(stored_version, slot.folder)
            await asyncio.to_thread(self._note, "discard", name, staged.bundle, **details)
            if slot.staged is not staged:
                raise NothingStaged(f"that version of {name!r} was activated meanwhile")
            if slot.active is not None and lying == staged.bundle.version:
                self.archive.choose(name, ChosenVersion(slot.active.bundle.version, lying))
            slot.staged = None
        return slot

    def _switched(self, slot: Slot) -> None:
        assert slot.active is not None
        bundle = slot.active.bundle
        _log.info("model %s serves version %s (%s)", slot.name, bundle.version, bundle.digest[:12])
        self._welcome(slot)
        self._make_room(slot, 0)
        self._changed()

    def _welcome(self, slot: Slot) -> None:
        """Let the first model of a service that started without any be the default one."""
        if self.awaits_first:
            self.awaits_first = False
            self.default_name = self.default_name or slot.name

    def _tell(self) -> None:
        """Publish what changed, also of those that were evicted."""
        for slot in self.slots.values():
            if self._published.get(slot.name) != (versions := slot.versions):
                self._published[slot.name] = versions
                self._publish("model", versions)

    def _make_room(self, spared_slot: Slot, megabytes: float) -> None:
        spared = {spared_slot.name, self.default_name}
        self._memory.make_room(self.slots.values(), spared, megabytes)
        self._tell()

    def find_folders(self) -> None:
        """Find the models that appeared since; one that is known keeps its versions."""
        for folder in model_folders(self._config.models_dir):
            name = folder.absolute().name
            if name not in self.slots:
                self.slots[name] = Slot(name, folder)


def _default_of(config: RegistryConfig, names: Sequence[str]) -> str | None:
    """Choose the model for requests that name none; None where there are several, or none yet.

    Raises `ModelNotFound` where models cannot be looked for, or the one that is set is missing.
    """
    if not names:
        _check_place(config.models_dir)
        _log.warning("%s", _no_model(config.models_dir))
        return config.default_model
    if config.default_model is not None and config.default_model not in names:
        raise ModelNotFound(
            f"MASKLINE_DEFAULT_MODEL is {config.default_model!r}, but {config.models_dir} has "
            f"only {', '.join(names)}"
        )
    if config.default_model is not None or len(names) == 1:
        return config.default_model or names[0]
    _log.warning(
        "there are several models (%s) and no MASKLINE_DEFAULT_MODEL: requests that name "
        "no model are answered 404",
        ", ".join(names),
    )
    return None


def _check_place(models_dir: Path) -> None:
    """Raise `ModelNotFound` where a model could never appear."""
    if not models_dir.exists():
        return
    if not models_dir.is_dir() or not os.access(models_dir, os.R_OK | os.X_OK):
        raise ModelNotFound(
            f"no model in {models_dir.absolute()}: not a folder that can be read; point "
            "MASKLINE_MODELS_DIR (or --models) at a folder of models, which may be empty"
        )


def _no_model(models_dir: Path) -> str:
    return (
        f"there is no model in {models_dir.absolute()} yet: train one on this service's page "
        "(/ui/#/train) or by POST /v1/trainings, or put a model's folder there"
    )


def _check_meant(present: ServedModel | None, version: str | None) -> None:
    """Raise `VersionChanged` where another version is there than the one that is meant."""
    if present is not None and version is not None and present.bundle.version != version:
        raise VersionChanged(
            f"version {present.bundle.version} of {present.name!r} is there, not {version}; "
            "somebody replaced it: look at what it would change"
        )
