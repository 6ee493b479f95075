"""Stored images to the picture of what was expected; runs in a thread, one picture at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from anomaly.bands import spread_grid
from anomaly.expectation import Mask, Piece
from anomaly.heatmap import as_uint8, encode_jpeg, picture_size
from anomaly.inlay import Inlay, Scene, inlay
from anomaly.types import Grid, Placement
from service.evidence import StoredEvidence
from service.heatmaps import decoded

_MOST_PICTURE_PX = 4_000_000
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Drawing:
    """An encoded picture of what was expected, what it is made of, and the share that is new."""

    jpeg: bytes
    inlay: Inlay
    share: float


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws one part's picture; `grid` is the model's patches, `max_pixels` the most decoded."""

    evidence: StoredEvidence
    grid: Grid
    max_pixels: int

    def scene(self, image: bytes) -> Scene:
        """The part's own scene, of its picture's size or half of that, and so on."""
        height, width = picture_size(self.evidence.placement.source)
        while height * width > _MOST_PICTURE_PX:
            height, width = -(-height // 2), -(-width // 2)
        return self._scene(image, self.evidence.placement, (height, width))

    def normal_scene(self, image: bytes, placement: Placement, part: Scene) -> Scene:
        """A normal part's scene at the part's scale."""
        top, left, bottom, right = placement.box
        down, along = part.scale
        size = max(1, round((bottom - top) * down)), max(1, round((right - left) * along))
        return self._scene(image, placement, size)

    def _scene(self, image: bytes, placement: Placement, size: tuple[int, int]) -> Scene:
        # A JPEG is reduced to no less than twice the side that is asked for.
        read = decoded(image, self.max_pixels, max(1, min(size) // 2))
        shown = as_uint8(read, self.evidence.white_level)
        shrinks = shown.shape[0] > size[0]
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = cv2.resize(shown, size[::-1], interpolation=way)
        return Scene(np.asarray(picture, np.uint8), placement, self._spread(placement))

    def _spread(self, placement: Placement) -> Grid:
        return spread_grid(self.grid, placement.canvas)

    def draw(
        self, part: Scene, cells: Mask, pieces: list[Piece], normals: Mapping[int, Scene]
    ) -> Drawing:
        """Put the pieces in, and encode the picture."""
        made = inlay(part, cells, pieces, normals.__getitem__)
        share = float(part.pixels_of(cells).mean())
        return Drawing(encode_jpeg(made.picture, _QUALITY), made, share)
