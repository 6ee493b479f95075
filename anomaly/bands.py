"""Long pictures on a square canvas: cut across their long side into bands, laid side by side.

A strip of 8192 × 256 pixels squeezed into a square loses what is thin along its length. Cut into n
bands it keeps its shape, and everything that works on the square (the model, its statistics of each
place, an exported graph) stays as it is. Results are spread out again, so that whoever sees a map
sees the picture's own shape: (S / n, n S) of a wide picture, (n S, S / n) of a tall one.
"""

import math
from typing import Any

import numpy as np

from anomaly.types import Grid


def spread_shape(side: int, bands: int, *, is_tall: bool) -> tuple[int, int]:
    """Return (rows, columns) of a square once its bands lie one after the other."""
    short, long = side // bands, side * bands
    return (long, short) if is_tall else (short, long)


def bands_of(shape: tuple[int, int]) -> int:
    """Return how many bands lie one after the other in (rows, columns)."""
    return round(math.sqrt(max(shape) / min(shape)))


def folded(spread: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lay bands side by side: (S / n, n S, …) or (n S, S / n, …) to (S, S, …)."""
    rows, columns = spread.shape[:2]
    return _recut(spread, bands_of((rows, columns)), axis=int(rows < columns))


def unfolded(square: np.ndarray[Any, Any], shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Put bands one after the other: (S, S, …) to a `shape` that `spread_shape` gave."""
    rows, columns = shape
    return _recut(square, bands_of(shape), axis=int(rows > columns))


def _recut(cells: np.ndarray[Any, Any], bands: int, *, axis: int) -> np.ndarray[Any, Any]:
    """Cut along one axis, and lay the pieces along the other."""
    if bands == 1:
        return cells
    return np.concatenate(np.split(cells, bands, axis=axis), axis=1 - axis)


def spread_grid(grid: Grid, canvas: tuple[int, int]) -> Grid:
    """Return a square canvas's cells as they lie on a canvas of this shape."""
    if canvas[0] == canvas[1]:
        return grid
    rows, columns = spread_shape(grid.rows, bands_of(canvas), is_tall=canvas[0] > canvas[1])
    return Grid(rows, columns, grid.patch, grid.cells)
