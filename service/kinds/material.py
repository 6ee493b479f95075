"""Labelled parts to examples: which regions a name is of, and how they are described now."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomaly.errors import ImageError, ScoreNotFinite
from anomaly.kinds import UNKNOWN, Examples, high_enough
from anomaly.types import FloatArray
from record.labelled import Named
from record.result import JsonObject, Result
from service.errors import BudgetSpent, InferenceFailed, OverBudget
from service.inference.batching import InferenceCrashed, TooMuchAtOnce
from service.inference.queue import BatcherClosed, DeadlineMissed, QueueFull
from service.inference.served_model import ServedModel
from service.results.recording import Recording
from service.workers import WorkTooSlow

_SAME_PLACE = 0.1  # intersection over union of boxes
_MOST_AGAIN = 200  # parts inspected anew for one model, when its weights are others

_GONE = "nothing is kept of them any more"
_PLAIN = "nothing stood out where they were looked at"
_FAILED = "they cannot be inspected by this model"
_TOO_MANY = f"more than {_MOST_AGAIN} were inspected by another model"
WAITING = "they wait to be inspected by this model"

# The line goes first: tried again when it has room.
_BUSY = (QueueFull, DeadlineMissed, BatcherClosed, BudgetSpent, TooMuchAtOnce, InferenceFailed)
# Never tried again: what breaks off a thread or a decoder would do so every few seconds.
_HOPELESS = (ImageError, ScoreNotFinite, OverBudget, WorkTooSlow, InferenceCrashed)


@dataclass(frozen=True, slots=True)
class Described:
    """A part's regions, as rows that `record.result` keeps, and their descriptions (n, D)."""

    regions: Sequence[JsonObject]
    vectors: FloatArray


# Inspects a stored image anew; None where it cannot be.
Describe = Callable[[bytes, ServedModel, str | None], Awaitable[Described | None]]


@dataclass(slots=True)
class Material:
    """Descriptions of labelled parts by one set of weights, read once each, or why there is none.

    `inspected` counts the parts that were inspected anew for it.
    """

    weights: str
    described: dict[str, Described | str] = field(default_factory=dict)
    inspected: int = 0

    async def gather(
        self,
        recording: Recording,
        model: ServedModel,
        named: Sequence[Named],
        describe: Describe,
    ) -> None:
        """Describe the parts that are not yet, the newest first: of old weights only so many."""
        self._keep_only({item.result.result_id for item in named})
        missing = [item.result for item in reversed(named) if self._lacks(item.result)]
        for start in range(0, len(missing), 100):
            results = missing[start : start + 100]
            stored = await recording.evidence(results)
            for result, evidence in zip(results, stored, strict=True):
                if evidence is None:
                    self.described[result.result_id] = _GONE
                elif evidence.weights == self.weights and evidence.vectors is not None:
                    vectors = evidence.vectors.astype(np.float32)
                    self.described[result.result_id] = (
                        Described(result.regions, vectors) if len(vectors) else _PLAIN
                    )
                else:
                    await self._describe_anew(recording, model, result, describe)

    def _keep_only(self, result_ids: Set[str]) -> None:
        """Let go what is labelled no more: descriptions are large, and a service runs for years."""
        for result_id in self.described.keys() - result_ids:
            del self.described[result_id]

    def _lacks(self, result: Result) -> bool:
        return self.described.get(result.result_id, WAITING) == WAITING

    async def _describe_anew(
        self, recording: Recording, model: ServedModel, result: Result, describe: Describe
    ) -> None:
        if self.inspected >= _MOST_AGAIN:
            self.described[result.result_id] = _TOO_MANY
            return
        self.inspected += 1
        image = await recording.image(result)
        if image is None:
            self.described[result.result_id] = _GONE
            return
        try:
            described = await describe(image, model, result.camera)
        except _HOPELESS:
            self.described[result.result_id] = _FAILED
            return
        except _BUSY:
            self.inspected -= 1
            self.described[result.result_id] = WAITING
            return
        self.described[result.result_id] = described or _PLAIN

    def examples(
        self, named: Sequence[Named], names: Mapping[str, str]
    ) -> tuple[Examples | None, Counter[str]]:
        """Return what the labelled parts teach, and how many teach nothing, by reason."""
        vectors: list[FloatArray] = []
        kinds: list[str] = []
        parts: list[str] = []
        left_out: Counter[str] = Counter()
        for item in named:
            described = self.described.get(item.result.result_id, WAITING)
            if isinstance(described, str):
                left_out[described] += 1
                continue
            kind = names[item.name]
            if kind == UNKNOWN:
                left_out[f"they are called {UNKNOWN!r}, which is no name"] += 1
                continue
            for row in _meant(described, item):
                vectors.append(described.vectors[row])
                kinds.append(kind)
                parts.append(item.result.result_id)
        if not vectors:
            return None, left_out
        return Examples(np.stack(vectors), tuple(kinds), tuple(parts)), left_out


def _meant(described: Described, named: Named) -> list[int]:
    """Rows of the regions that a name is of; by their places where the part was inspected anew."""
    regions = described.regions[: len(described.vectors)]
    if named.regions is not None:
        pointed = [named.result.regions[i] for i in named.regions if i < len(named.result.regions)]
        rows = [
            row
            for row, region in enumerate(regions)
            if any(_overlap(region["bbox"], other["bbox"]) >= _SAME_PLACE for other in pointed)
        ]
        if rows:
            return rows
    return high_enough([region["peak_score"] for region in regions])


def _overlap(box: Sequence[Any], other: Sequence[Any]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    (x, y, w, h), (u, v, p, q) = box, other
    wide, high = min(x + w, u + p) - max(x, u), min(y + h, v + q) - max(y, v)
    shared = max(0, wide) * max(0, high)
    return float(shared / (w * h + p * q - shared))
