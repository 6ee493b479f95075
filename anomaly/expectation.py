"""What was expected where a part stands out, as patches of normal parts.

The suspicious patches are hidden and predicted from all that is left in view. Of the normal parts,
the patches nearest to that prediction, and to what surrounds it, are found near the same place: a
block of patches together, so that they belong to one another. Everything here is in tokens;
`anomaly.inlay` makes a picture of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anomaly.bands import folded, spread_grid, unfolded
from anomaly.heatmap import region_level
from anomaly.mae import take
from anomaly.model import AnomalyModel
from anomaly.types import FloatArray, Grid, Placement

Mask = NDArray[np.bool_]
_REACH = 3  # patches that a normal patch may lie away from the place it is put in
_BLOCK = 8  # patches along the side of a block
_MOST_BLOCKS = 32
_ORIGINS = 3  # of a block, of which the one that fits best as a picture is taken
_JUDGES = 4  # normal parts that say how far a good match lies


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a normal part has what was expected: `shift` patches (rows, columns) away.

    `distance` is the root mean square over channels of standardised tokens.
    """

    normal: int
    shift: tuple[int, int]
    distance: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of hidden patches (rows, columns) as the picture lies; `origins` nearest first."""

    patches: Mask
    origins: tuple[Origin, ...]


def suspicious_cells(patch_scores: FloatArray, map_threshold: float) -> Mask:
    """Say which cells (rows, columns) make up the regions, and their neighbours; never none."""
    level = min(region_level(patch_scores, map_threshold), np.nextafter(patch_scores.max(), -99))
    above = (patch_scores > level).astype(np.uint8)
    return _widened(above)


def _widened(mask: NDArray[np.uint8]) -> Mask:
    """Add the neighbours of what is not 0."""
    return np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.bool_)


def patches_of(cells: Mask, patch_cells: int) -> Mask:
    """Say which patches have any of these cells, as they lie in the picture."""
    rows, cols = cells.shape
    blocks = cells.reshape(rows // patch_cells, patch_cells, cols // patch_cells, patch_cells)
    return np.asarray(blocks.any(axis=(1, 3)), np.bool_)


@torch.inference_mode()
def tokens_of(model: AnomalyModel, pixels: torch.Tensor) -> torch.Tensor:
    """Return what predictions of a canvas (3, S, S) are compared to, (L, C) on the CPU."""
    target = model.target
    return target.to_predict(target(pixels[None].to(target.mean.device)))[0].cpu()


@torch.inference_mode()
def expected_tokens(
    model: AnomalyModel, pixels: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """Predict what `hidden` (L,) bool hides of a canvas (3, S, S) from all that is in view.

    Returns (L, C) on the CPU: the prediction where hidden, and otherwise what is really there; this
    also where nothing was in view that could have said more.
    """
    target = model.target
    tokens = target(pixels[None].to(target.mean.device))  # (1, L, C)
    hidden = hidden.to(tokens.device)
    total = torch.zeros_like(tokens[0])
    times = total.new_zeros(len(total), 1)
    for places in model.window_indices.to(tokens.device):
        visible, queries = (side.nonzero()[:, 0] for side in (~hidden[places], hidden[places]))
        if not len(visible) or not len(queries):
            continue
        window = take(tokens, places[None])
        total[places[queries]] += model.mae(window, visible[None], queries[None])[0].float()
        times[places[queries]] += 1
    predicted = total / times.clamp(min=1)
    return torch.where(times > 0, predicted, target.to_predict(tokens)[0]).cpu()


def distance_between(tokens: FloatArray, normal: FloatArray, hidden: Mask) -> float:
    """How far two parts' tokens (rows, columns, C) lie apart where nothing is hidden.

    The root mean square of standardised tokens; over all of them where everything is hidden.
    """
    in_view = ~hidden if not hidden.all() else hidden
    return float(np.sqrt(np.square(tokens[in_view] - normal[in_view]).mean()))


def as_picture(tokens: torch.Tensor, grid: Grid, placement: Placement) -> FloatArray:
    """Lay a canvas's tokens (L, C) as its picture lies, (rows, columns, C)."""
    spread = spread_grid(grid, placement.canvas)
    square = tokens.view(grid.rows, grid.cols, -1).numpy()
    return unfolded(square, (spread.rows, spread.cols))


def as_canvas(mask: Mask) -> torch.Tensor:
    """Flatten patches (rows, columns) as the picture lies to those of the canvas, (L,)."""
    return torch.from_numpy(np.ascontiguousarray(folded(mask))).flatten()


def find_pieces(expected: FloatArray, hidden: Mask, normals: FloatArray) -> list[Piece]:
    """Find what was expected (rows, columns, C) among normal parts (N, rows, columns, C)."""
    return [
        Piece(block, _origins(_squares(expected, normals, *_around(block))))
        for block in _blocks(hidden)
    ]


def usual_distance(piece: Piece, normals: FloatArray) -> float | None:
    """How far the same block of a normal part lies from other normal ones; None of a lone one."""
    if len(normals) < 2:
        return None
    rows, cols = _around(piece.patches)
    distances = []
    for judge in range(min(_JUDGES, len(normals))):
        squares = _squares(normals[judge], normals, rows, cols)
        squares[judge] = np.inf
        distances.append(float(squares.min()) ** 0.5)
    return float(np.median(distances))


def _around(block: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of a block's patches and those next to them, which say how it joins on."""
    rows, columns = np.nonzero(_widened(block.astype(np.uint8)))
    return rows, columns


def _squares(
    expected: FloatArray, normals: FloatArray, rows: NDArray[np.intp], cols: NDArray[np.intp]
) -> FloatArray:
    """Mean square distance of P expected patches to normal ones, (N, shifts).

    It is infinite of a shift that reaches beyond the canvas.
    """
    height, width = expected.shape[:2]
    top, left = max(0, rows.min() - _REACH), max(0, cols.min() - _REACH)
    near = normals[:, top : rows.max() + _REACH + 1, left : cols.max() + _REACH + 1]
    sought = expected[rows, cols]  # (P, C)
    flat = near.reshape(-1, near.shape[-1])
    # One product for all: a patch is compared with the same neighbours by many shifts.
    dots = (flat @ sought.T).reshape(*near.shape[:3], -1)  # (N, h, w, P)
    lengths = np.einsum("nhwc,nhwc->nhw", near, near)
    squares = np.full((len(normals), (2 * _REACH + 1) ** 2), np.inf, np.float32)
    numbers = np.arange(len(rows))
    total = float(np.square(sought).sum())
    for number, (down, right) in enumerate(_shifts()):
        y, x = rows + down, cols + right
        if y.min() < 0 or x.min() < 0 or y.max() >= height or x.max() >= width:
            continue
        y, x = y - top, x - left
        squares[:, number] = (lengths[:, y, x] - 2 * dots[:, y, x, numbers]).sum(axis=1) + total
    return np.asarray(np.maximum(squares, 0) / sought.size, np.float32)


def _shifts() -> list[tuple[int, int]]:
    steps = range(-_REACH, _REACH + 1)
    return [(down, right) for down in steps for right in steps]


def _origins(squares: FloatArray) -> tuple[Origin, ...]:
    """Return the nearest origins of a block by (N, shifts) mean squares, one of each normal."""
    best = squares.argmin(axis=1)
    nearest = squares.min(axis=1)
    shifts = _shifts()
    return tuple(
        Origin(int(normal), shifts[best[normal]], float(nearest[normal]) ** 0.5)
        for normal in np.argsort(nearest, kind="stable")[:_ORIGINS]
    )


def _blocks(hidden: Mask) -> Iterator[Mask]:
    """Cut hidden patches into blocks that hang together."""
    side = _BLOCK
    while len(blocks := list(_cut(hidden, side))) > _MOST_BLOCKS and side < max(hidden.shape):
        side *= 2
    yield from blocks


def _cut(hidden: Mask, side: int) -> Iterator[Mask]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hidden.astype(np.uint8))
    for label in range(1, count):
        left, top, width, height = (int(value) for value in stats[label][:4])
        for rows in _spans(top, height, side):
            for cols in _spans(left, width, side):
                block = np.zeros_like(hidden)
                block[rows, cols] = labels[rows, cols] == label
                if block.any():
                    yield block


def _spans(start: int, length: int, side: int) -> Sequence[slice]:
    """Cut a span evenly into the fewest that are no longer than `side`."""
    count = -(-length // side)
    ends = [start + round(i * length / count) for i in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]
