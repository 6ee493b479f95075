"""A stored part beside normal ones: which of them it is nearest to, and what was expected of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from anomaly.errors import ImageError
from anomaly.expectation import (
    Mask,
    Piece,
    as_canvas,
    as_picture,
    distance_between,
    expected_tokens,
    find_pieces,
    patches_of,
    suspicious_cells,
    tokens_of,
    usual_distance,
)
from anomaly.inlay import Scene
from anomaly.types import FloatArray, Placement
from record.result import Result
from service.errors import NoNormalsKept
from service.evidence import StoredEvidence
from service.inference.served_model import ServedModel
from service.inspector import Inspector
from service.results.evidence import needed
from service.results.recording import Recording
from service.why.drawing import Drawer, Drawing
from service.why.once import Bounds, Remembered

T = TypeVar("T")
_log = logging.getLogger(__name__)
_COMPARED = 16  # normal parts whose tokens are looked at
_NEIGHBOURS = 5
_GOOD_MATCH = 1.5  # times the distance that is usual among normal parts
_TOKENS = Bounds(values=1000, total_bytes=64_000_000)


@dataclass(frozen=True, slots=True)
class Part:
    """A stored result with evidence that a version's own weights gathered."""

    result: Result
    evidence: StoredEvidence


@dataclass(frozen=True, slots=True)
class Near:
    """A normal part and how far it lies, in root mean square of standardised tokens."""

    result_id: str
    distance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The nearest normal parts, and a picture (JPEG) of what was expected.

    `parts` are those that the picture's pieces are from, each with its furthest piece; `distance`
    is that of all pieces together, `usual_distance` what it is among normal parts. `share` is how
    much of the picture was replaced.
    """

    neighbours: tuple[Near, ...]
    picture: bytes
    parts: tuple[Near, ...]
    distance: float
    usual_distance: float | None
    share: float

    @property
    def is_good_match(self) -> bool | None:
        """Whether a normal part has what was expected; None where nothing says what is usual."""
        if self.usual_distance is None:
            return None
        return self.distance <= _GOOD_MATCH * self.usual_distance


@dataclass(frozen=True, slots=True)
class _Normals:
    """Normal parts that could be read, with their tokens (N, rows, columns, C)."""

    parts: tuple[Part, ...]
    tokens: FloatArray

    def nearest(self, tokens: FloatArray, hidden: Mask) -> tuple[Near, ...]:
        near = [
            Near(part.result.result_id, distance_between(tokens, normal, hidden))
            for part, normal in zip(self.parts, self.tokens, strict=True)
        ]
        return tuple(sorted(near, key=lambda item: item.distance)[:_NEIGHBOURS])


@dataclass(frozen=True, slots=True)
class _Subject:
    """The part that is asked about: its image, its suspicious cells and the patches they lie in."""

    part: Part
    image: bytes
    cells: Mask
    hidden: Mask


@dataclass(frozen=True, slots=True)
class _Match:
    neighbours: tuple[Near, ...]
    pieces: list[Piece]
    usual_distance: float | None


@dataclass(frozen=True, slots=True)
class Comparer:
    """Compares stored parts; the model's share of it runs on its device, image by image."""

    inspector: Inspector
    _tokens: Remembered[NDArray[np.float16]] = field(
        default_factory=lambda: Remembered(_TOKENS, lambda tokens: tokens.nbytes)
    )

    async def compare(
        self, recording: Recording, model: ServedModel, part: Part, normals: Sequence[Part]
    ) -> Comparison:
        """Compare a part with those normal ones that are most alike.

        Raises `NothingKept` where the part's image is gone, `NoNormalsKept` where no other is
        there.
        """
        image = needed(await recording.image(part.result), part.result.result_id)
        compared = await self._read(recording, model, _alike(part, normals))
        scores = part.evidence.map.astype(np.float32)
        cells = suspicious_cells(scores, part.evidence.map_threshold)
        hidden = patches_of(cells, model.bundle.model.target.map_grid.cells)
        subject = _Subject(part, image, cells, hidden)
        match = await self._match(model, subject, compared)
        drawing = await self._draw(recording, model, subject, match=match, compared=compared)
        return _comparison(match, drawing, compared)

    async def _match(self, model: ServedModel, subject: _Subject, compared: _Normals) -> _Match:
        """Predict what is hidden, and find where normal parts have it."""
        result_id = subject.part.result.result_id
        placed = needed(await self._placed(subject.image, model, result_id), result_id)
        (canvas, placement), hidden = placed, subject.hidden
        pixels, network = _pixels(canvas), model.detector.model
        predict = partial(expected_tokens, network, pixels, as_canvas(hidden))
        expected = await self.inspector.compute(model, predict)
        tokens = await self.inspector.compute(model, partial(tokens_of, network, pixels))
        grid = network.target.grid

        def find() -> _Match:
            pieces = find_pieces(as_picture(expected, grid, placement), hidden, compared.tokens)
            largest = max(pieces, key=lambda piece: int(piece.patches.sum()))
            neighbours = compared.nearest(as_picture(tokens, grid, placement), hidden)
            return _Match(neighbours, pieces, usual_distance(largest, compared.tokens))

        return await self.inspector.in_pool(find)

    async def _read(
        self, recording: Recording, model: ServedModel, normals: Sequence[Part]
    ) -> _Normals:
        parts, tokens = [], []
        for part in normals:
            of_part = await self._tokens_of(recording, model, part)
            if of_part is not None:
                parts.append(part)
                tokens.append(of_part)
        if not parts:
            raise NoNormalsKept(
                "no image of a normal part of this model and camera is kept that the part could be "
                "compared with; keep more of them (MASKLINE_KEEP)"
            )
        return _Normals(tuple(parts), np.stack(tokens).astype(np.float32))

    async def _tokens_of(
        self, recording: Recording, model: ServedModel, part: Part
    ) -> NDArray[np.float16] | None:
        """Return a normal part's tokens (rows, columns, C); None where it cannot be read."""
        key = model.bundle.weights, part.result.result_id
        if (remembered := self._tokens.get(key)) is not None:
            return remembered
        image = await recording.image(part.result)
        if image is None:
            return None
        placed = await self._placed(image, model, part.result.result_id)
        if placed is None:
            return None
        (canvas, placement), network = placed, model.detector.model
        tokens = await self.inspector.compute(model, partial(tokens_of, network, _pixels(canvas)))
        laid = as_picture(tokens, network.target.grid, placement).astype(np.float16)
        self._tokens.put(key, laid)
        return laid

    async def _placed(
        self, image: bytes, model: ServedModel, result_id: str
    ) -> tuple[FloatArray, Placement] | None:
        """Place a kept image on the model's canvas; None where it is damaged."""
        try:
            return await self.inspector.place(image, model)
        except ImageError as error:
            _log.warning("the image of result %s cannot be read: %s", result_id, error)
            return None

    async def _draw(
        self,
        recording: Recording,
        model: ServedModel,
        subject: _Subject,
        *,
        match: _Match,
        compared: _Normals,
    ) -> Drawing:
        grid, limit = model.bundle.model.target.grid, self.inspector.settings.max_image_pixels
        drawer = Drawer(subject.part.evidence, grid, limit)
        scene = await self._drawn(drawer, lambda: drawer.scene(subject.image))
        scenes: dict[int, Scene] = {}
        for number in {origin.normal for piece in match.pieces for origin in piece.origins}:
            normal = compared.parts[number]
            if (image := await recording.image(normal.result)) is None:
                continue  # tidied away since its tokens were read
            place = normal.evidence.placement
            drawing = partial(drawer.normal_scene, image, place, scene)
            scenes[number] = await self._drawn(drawer, drawing)
        pieces = [_of_those(piece, scenes) for piece in match.pieces]
        put_in = partial(drawer.draw, scene, subject.cells, pieces, scenes)
        return await self._drawn(drawer, put_in)

    async def _drawn(self, drawer: Drawer, work: Callable[[], T]) -> T:
        return await self.inspector.heatmaps.draw(work, drawer.evidence.placement.source)


def _of_those(piece: Piece, scenes: Mapping[int, Scene]) -> Piece:
    """Return a piece with only the origins that can be shown; raises `NoNormalsKept`."""
    origins = tuple(origin for origin in piece.origins if origin.normal in scenes)
    if not origins:
        raise NoNormalsKept("the normal parts nearest to what was expected are no longer kept")
    return replace(piece, origins=origins)


def _alike(part: Part, normals: Sequence[Part]) -> list[Part]:
    """Return the normal parts of the same shape whose pictures are most alike in general."""
    shaped = [
        item for item in normals if item.evidence.placement.canvas == part.evidence.placement.canvas
    ]
    if len(shaped) <= _COMPARED:
        return shaped
    inputs = np.stack([item.evidence.inputs for item in shaped])
    spread = np.maximum(inputs.std(axis=0), 1e-6)
    away = np.square((inputs - part.evidence.inputs) / spread).sum(axis=1)
    return [shaped[number] for number in np.argsort(away, kind="stable")[:_COMPARED]]


def _pixels(canvas: FloatArray) -> torch.Tensor:
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()  # (3, S, S)


def _comparison(match: _Match, drawing: Drawing, compared: _Normals) -> Comparison:
    origins, furthest = drawing.inlay.origins, dict[str, float]()
    for origin in origins:
        name = compared.parts[origin.normal].result.result_id
        furthest[name] = max(origin.distance, furthest.get(name, 0.0))
    return Comparison(
        neighbours=match.neighbours,
        picture=drawing.jpeg,
        parts=tuple(Near(name, distance) for name, distance in furthest.items()),
        distance=float(np.sqrt(np.mean([origin.distance**2 for origin in origins]))),
        usual_distance=match.usual_distance,
        share=drawing.share,
    )
