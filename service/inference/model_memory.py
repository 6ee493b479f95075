"""What the models of a process may hold in memory, and which of them goes first."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.inference.served_model import Slot

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Bounds the models' memory.

    `sessions` is how often a CPU's engine loads each graph; 0 where torch computes, on a GPU.
    `copies` is how many times a graph's size each takes.
    """

    limit_mb: float = float("inf")
    sessions: int = 1
    copies: int = 2

    def needs(self, folder: Path) -> float:
        """Estimate the megabytes of a model from its files.

        The weights are held once. A graph is held as it is, and some times its size in each
        session: its weights packed anew, and what the largest tensors take (docs/LOG.md).
        """
        weights, graph = (_size(folder / name) for name in ("model.safetensors", "model.onnx"))
        return (weights + (1 + self.copies * self.sessions) * graph) / 1e6

    def has_room(self, slots: Iterable[Slot], megabytes: float) -> bool:
        """Whether so much more can be loaded beside what is."""
        return sum(slot.megabytes for slot in slots) + megabytes <= self.limit_mb

    def make_room(self, slots: Iterable[Slot], spared: set[str | None], megabytes: float) -> None:
        """Evict the models used longest ago until there is room; never a spared one."""
        slots = list(slots)
        evictable = [slot for slot in slots if slot.name not in spared and slot.active is not None]
        for slot in sorted(evictable, key=lambda slot: slot.used):
            if self.has_room(slots, megabytes):
                return
            _log.info("model %s is evicted: memory is full", slot.name)
            slot.active = slot.previous = slot.staged = None


def _size(file: Path) -> int:
    """Return a file's bytes; 0 where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
