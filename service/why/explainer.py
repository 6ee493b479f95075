"""Why a part was rejected: which evidence spoke, how normal parts look, what was expected."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from anomaly.conformal import Conformal
from anomaly.explanation import Explanation, explain, family_scores
from record.result import Result
from record.store import Filter
from service.errors import ModelGone, NoNormalsKept, NothingKept
from service.evidence import errors_of
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.results.evidence import needed
from service.results.recording import Recording
from service.why.comparison import Comparer, Comparison, Part
from service.why.once import Bounds, Once

_NORMALS = 48  # newest kept normal parts that are looked at
_FEWEST = 5  # normal parts of which a median is told


@dataclass(frozen=True, slots=True)
class Typical:
    """How normal parts score: `count` of them, their median, and what 95 % do not exceed."""

    count: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class Rank:
    """`as_high` of `groups` calibration groups look like the part or more so."""

    groups: int
    as_high: float


@dataclass(frozen=True, slots=True)
class Why:
    """Why a part has its score. `families` are what kept normal parts score by each family.

    `comparison` is None where there is none, and `problem` then says why, as an error's code.
    """

    result: Result
    model: ServedModel
    explanation: Explanation
    families: dict[str, Typical]
    calibrated_on: Typical
    rank: Rank
    comparison: Comparison | None
    problem: str | None

    @property
    def is_same_calibration(self) -> bool:
        """Whether the calibration that judged the part says so, and not a later one."""
        return self.result.calibration == self.model.judged_by(self.result.camera)


class Explainer:
    """Explains stored results; comparisons are made one at a time, and remembered."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._comparer = Comparer(inspector)
        self._comparisons: Once[Comparison] = Once(Bounds(), lambda made: len(made.picture))

    async def why(self, recording: Recording, result_id: str) -> Why:
        """Explain a stored result.

        Raises `ResultUnknown`, `NothingKept` where no evidence is kept, or `ModelGone`.
        """
        model, part = await self._judged(recording, result_id)
        normals = await self._normals(recording, model, part)
        explained = partial(_explained, model, part, normals)
        explanation, families = await self._inspector.in_pool(explained)
        comparison, problem = None, None
        try:
            comparison = await self._compared(recording, model, part, normals)
        except (NoNormalsKept, NothingKept) as error:
            problem = error.code
        images = model.detector.calibration_of(part.result.camera).images
        return Why(
            result=part.result,
            model=model,
            explanation=explanation,
            families=families,
            calibrated_on=_typical_of(images),
            rank=_rank(images, part.result.score),
            comparison=comparison,
            problem=problem,
        )

    async def expected(self, recording: Recording, result_id: str) -> bytes:
        """Return a picture (JPEG) of what was expected of a stored part.

        Raises what `why` raises, `NothingKept` where its image is gone too, or `NoNormalsKept`.
        """
        model, part = await self._judged(recording, result_id)
        normals = await self._normals(recording, model, part)
        return (await self._compared(recording, model, part, normals)).picture

    async def _compared(
        self, recording: Recording, model: ServedModel, part: Part, normals: Sequence[Part]
    ) -> Comparison:
        compare = partial(self._comparer.compare, recording, model, part, normals)
        return await self._comparisons.get((part.result.result_id, model.bundle.digest), compare)

    async def _judged(self, recording: Recording, result_id: str) -> tuple[ServedModel, Part]:
        """Find a result, its evidence, and a version with the weights that gathered it."""
        result = (await recording.find(result_id)).result
        [stored] = await recording.evidence([result])
        evidence = needed(stored, result_id)
        registry = self._inspector.engine.registry
        versions: list[ServedModel] = []
        if (slot := registry.slots.get(result.model)) is not None:
            active = await registry.acquire(result.model)
            loaded = (active, slot.previous, slot.staged)
            versions = [
                version
                for version in loaded
                if version is not None and version.bundle.weights == evidence.weights
            ]
        if not versions:
            raise ModelGone(
                f"version {result.version} of {result.model!r} judged the part, and no version "
                "with its weights is loaded; roll back to it, or look at the stored heatmap"
            )
        # The sort is stable: the one that serves is preferred among equals.
        versions.sort(key=lambda version: version.judged_by(result.camera) != result.calibration)
        return versions[0], Part(result, evidence)

    async def _normals(self, recording: Recording, model: ServedModel, part: Part) -> list[Part]:
        """Return the newest kept normal parts of a part's model and camera."""
        camera = part.result.camera
        filter_ = Filter(model=model.name, camera=camera)
        results = await recording.reader.kept_normals(filter_, _NORMALS + 1, model.thresholds)
        comparable = [
            result
            for result in results
            if result.camera == camera and result.result_id != part.result.result_id
        ][:_NORMALS]
        evidence = await recording.evidence(comparable)
        return [
            Part(result, stored)
            for result, stored in zip(comparable, evidence, strict=True)
            if stored is not None and stored.weights == model.bundle.weights
        ]


def _explained(
    model: ServedModel, part: Part, normals: Sequence[Part]
) -> tuple[Explanation, dict[str, Typical]]:
    """Explain a part, and say how normal ones score by each family; runs in a thread."""
    calibration = model.detector.calibration_of(part.result.camera)
    grid, names = model.bundle.model.target.map_grid, model.bundle.model.names
    explanation = explain(
        errors_of([part.evidence], names), calibration, grid, part.evidence.placement
    )
    if len(normals) < _FEWEST:
        return explanation, {}
    masks = [calibration.roi_mask(normal.evidence.placement, grid) for normal in normals]
    scores = family_scores(
        errors_of([normal.evidence for normal in normals], names),
        calibration,
        grid,
        None
        if calibration.roi is None
        else torch.stack([mask for mask in masks if mask is not None]),
    )
    return explanation, {family: _typical(values.numpy()) for family, values in scores.items()}


def _typical(scores: np.ndarray) -> Typical:
    median, p95 = np.quantile(scores, (0.5, 0.95))
    return Typical(len(scores), float(median), float(p95))


def _typical_of(images: Conformal) -> Typical:
    """Say how a calibration's images score, each group counting once."""
    share = np.cumsum(images.weights, dtype=np.float64) / images.groups
    last = len(share) - 1
    median, p95 = (
        float(images.scores[min(last, int(np.searchsorted(share, level - 1e-9)))])
        for level in (0.5, 0.95)
    )
    return Typical(images.groups, median, p95)


def _rank(images: Conformal, score: float) -> Rank:
    as_high = images.weights[images.scores >= np.float32(score)].sum(dtype=np.float64)
    return Rank(images.groups, round(float(as_high), 2))
