"""Regions to vectors: what of each was not predicted, so that like defects lie side by side.

A region is described by the mean of its tokens minus the autoencoder's predictions of them, which
needs no aligned parts and hardly depends on what lies around: with one to ten examples of a kind it
tells more than the tokens themselves (docs/METHOD.md). Cells count by how far the map rises above
the level of regions, squared.
"""

import numpy as np
import torch

from anomaly.bands import folded, spread_grid
from anomaly.heatmap import region_level
from anomaly.targets import Target
from anomaly.types import Detection, FloatArray, Grid, Placement, Region


def describe(detection: Detection, target: Target) -> FloatArray | None:
    """Describe each region of a detection: (n, D) float32 of unit length, D channels.

    None where its differences are not at hand. A block's cells are told apart by nothing, so that a
    defect is the same wherever in a patch it lies.
    """
    if detection.differences is None:
        return None
    level = region_level(detection.anomaly_map, detection.map_threshold)
    grid = spread_grid(target.map_grid, detection.placement.canvas)
    excess = np.square(np.maximum(detection.patch_scores - np.float32(level), 0))
    weights = [
        folded(_weights(excess, _cover(region, detection.placement, grid)))
        for region in detection.regions
    ]
    if not weights:
        return np.zeros((0, _width(target)), np.float32)
    return _means(detection.differences, np.stack(weights), target)


def _means(differences: torch.Tensor, weights: FloatArray, target: Target) -> FloatArray:
    """Mean differences (L, C) under weights (n, rows, columns) of the map grid, which sum to 1."""
    means = []
    by_block = target.cells(differences.float().unsqueeze(0))
    for block, cells in zip(target.blocks, by_block, strict=True):
        rows, columns = target.grid.rows * block.cells, target.grid.cols * block.cells
        finer = target.map_grid.rows // rows
        of_cells = weights.reshape(-1, rows, finer, columns, finer).sum(axis=(2, 4))
        on_device = torch.from_numpy(of_cells.reshape(len(weights), -1)).to(cells)
        means.append(on_device @ cells[0])  # (n, channels)
    joined = torch.nn.functional.normalize(torch.cat(means, dim=1), dim=1)
    return np.asarray(joined.cpu().numpy(), np.float32)


def _width(target: Target) -> int:
    return sum(block.channels for block in target.blocks)


def _weights(excess: FloatArray, cover: FloatArray) -> FloatArray:
    """Weigh cells by their excess where a region covers them; by the cover where none has any."""
    weights = excess * cover
    if not weights.sum() > 0:
        weights = cover
    return np.asarray(weights / weights.sum(), np.float32)


def _cover(region: Region, placement: Placement, grid: Grid) -> FloatArray:
    """Share of each cell (rows, columns) that a region's box covers."""
    x, y, width, height = region.bbox
    (top, left, _, _), (scale_y, scale_x) = placement.box, placement.scale
    down = _overlap(top + y / scale_y, top + (y + height) / scale_y, grid.rows, grid.patch)
    across = _overlap(left + x / scale_x, left + (x + width) / scale_x, grid.cols, grid.patch)
    return np.outer(down, across).astype(np.float32)


def _overlap(start: float, end: float, cells: int, side: int) -> FloatArray:
    edges = np.arange(cells) * side
    shared = np.minimum(end, edges + side) - np.maximum(start, edges)
    return np.asarray(np.clip(shared, 0, side) / side, np.float32)
