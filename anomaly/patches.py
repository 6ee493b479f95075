"""Cutting canvases into patches and putting them together again. Pure reshaping; knows no model."""

import torch
import torch.nn.functional as F

from anomaly.errors import require_shape
from anomaly.types import Grid


def grid_of(canvas: int, patch: int) -> Grid:
    """Return the grid of a square canvas; the patch side must divide the canvas side."""
    require_shape("canvas", (canvas, canvas), f"sides divisible by {patch}", ok=canvas % patch == 0)
    return Grid(canvas // patch, canvas // patch, patch)


def patchify(pixels: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Cut (B, C, H, W) into (B, L, P·P·C), channels last within a patch (He et al. 2022, MAE)."""
    height, width = grid.rows * grid.patch, grid.cols * grid.patch
    ok = pixels.ndim == 4 and pixels.shape[2:] == (height, width)
    require_shape("pixels", tuple(pixels.shape), f"(B, C, {height}, {width})", ok=ok)
    batch, channels = pixels.shape[:2]
    cut = pixels.reshape(batch, channels, grid.rows, grid.patch, grid.cols, grid.patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid.length, -1)  # (B, L, P·P·C)


def unpatchify(patches: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Put (B, L, P·P·C) together again into (B, C, H, W); the inverse of `patchify`."""
    area = grid.patch * grid.patch
    ok = patches.ndim == 3 and patches.shape[1] == grid.length and patches.shape[2] % area == 0
    require_shape("patches", tuple(patches.shape), f"(B, {grid.length}, {area}·C)", ok=ok)
    batch, channels = patches.shape[0], patches.shape[2] // area
    cut = patches.reshape(batch, grid.rows, grid.cols, grid.patch, grid.patch, channels)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(
        batch, channels, grid.rows * grid.patch, grid.cols * grid.patch
    )


def fold_cells(maps: torch.Tensor, grid: Grid, cells: int) -> torch.Tensor:
    """Stack patches' cells into tokens: (B, C, rows·cells, cols·cells) to (B, L, cells²·C)."""
    batch, channels = maps.shape[:2]
    cut = maps.reshape(batch, channels, grid.rows, cells, grid.cols, cells)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid.length, -1)


def unfold_cells(tokens: torch.Tensor, grid: Grid, cells: int) -> torch.Tensor:
    """Spread tokens over their cells, row by row: (B, L, cells²·C) to (B, L·cells², C)."""
    batch, channels = tokens.shape[0], tokens.shape[2] // cells**2
    cut = tokens.reshape(batch, grid.rows, grid.cols, cells, cells, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(batch, grid.length * cells**2, channels)


def refine(maps: torch.Tensor, grid: Grid, cells: int) -> torch.Tensor:
    """Interpolate (..., L) values on a grid to one `cells` times as fine: (..., L·cells²)."""
    if cells == 1:
        return maps
    size = (grid.rows * cells, grid.cols * cells)
    flat = maps.reshape(-1, 1, grid.rows, grid.cols)
    fine = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return fine.reshape(*maps.shape[:-1], size[0] * size[1])
