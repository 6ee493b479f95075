"""Takes over the versions that appear in the models' folder, for as long as the service runs."""

import asyncio
import logging
from pathlib import Path

from anomaly.bundle import stored_version
from anomaly.errors import ModelError
from service.errors import DefectsWouldPass
from service.inference.registry import Gate, Registry
from service.inference.served_model import Slot

_log = logging.getLogger(__name__)
_FIRST_S = 2.0  # between two looks while there is no model at all


class ModelWatch:
    """Looks for new versions; each passes `gate` before it serves."""

    def __init__(self, registry: Registry, gate: Gate | None) -> None:
        self._registry = registry
        self._gate = gate
        self._given_up: set[tuple[str, str]] = set()  # versions that need not be tried again

    async def run(self, every_s: float) -> None:
        """Scan every so many seconds; 0 does so only until there is a first model."""
        while every_s or self._registry.awaits_first:
            await asyncio.sleep(_FIRST_S if self._registry.awaits_first else every_s)
            if every_s or self._registry.awaits_first:
                await self.scan()

    async def scan(self) -> None:
        """Load and activate what is new in the models' folder; one model's error stops no other's.

        What another version alone could heal is tried once; the rest at every scan.
        """
        self._registry.find_folders()
        for slot in list(self._registry.slots.values()):
            try:
                await self._take_over(slot)
            except (ModelError, DefectsWouldPass) as error:
                self._given_up.add((slot.name, _stamp(slot.folder)))
                _log.error("model %s is not taken over: %s", slot.name, error)
            except Exception:  # noqa: BLE001  (one model must not end the watch of all)
                _log.exception("model %s is not taken over now, and is tried again", slot.name)

    async def _take_over(self, slot: Slot) -> None:
        version = await asyncio.to_thread(stored_version, slot.folder)
        if not self._is_news(slot, version):
            return
        if slot.staged is None or slot.staged.bundle.version != version:
            await self._registry.load(slot.name)
        await self._registry.activate(slot.name, gate=self._gate)

    def _is_news(self, slot: Slot, version: str) -> bool:
        if (slot.name, _stamp(slot.folder)) in self._given_up:
            return False
        if self._registry.archive.is_chosen_against(slot.name, version):
            return False
        if slot.active is None:
            return slot.failure is not None or self._registry.awaits_first
        return slot.active.bundle.version != version


def _stamp(folder: Path) -> str:
    """Tell one state of a folder from another without reading it, also while it is copied."""
    try:
        files = [path.stat() for path in folder.iterdir()]
        status = (folder / "manifest.json").stat()
    except OSError:
        return ""
    total_bytes = sum(file.st_size for file in files)
    return f"{status.st_mtime_ns}.{status.st_ino}.{len(files)}.{total_bytes}"
