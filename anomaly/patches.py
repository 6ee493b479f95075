"""Cutting canvases into patches and putting them together again. Pure reshaping; knows no model."""

import torch

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
