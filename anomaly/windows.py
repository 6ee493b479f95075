"""Grids larger than the autoencoder: overlapping windows of tokens, cut out and put together again.

The autoencoder always sees the square of tokens that it was built for. A canvas at higher
resolution has more tokens; windows cover them, and where windows overlap the results are averaged.
"""

import torch

from anomaly.types import Grid


def window_of(grid: Grid, side: int) -> Grid:
    """Return the grid of one window: `side` patches each way, or all where there are fewer."""
    return Grid(min(side, grid.rows), min(side, grid.cols), grid.patch)


def window_indices(grid: Grid, window: Grid) -> torch.Tensor:
    """Return (W, l) patch indices of the fewest evenly spaced windows that cover the grid."""
    corners = [
        (top, left)
        for top in _starts(grid.rows, window.rows)
        for left in _starts(grid.cols, window.cols)
    ]
    return torch.stack([window_at(grid, window, top, left) for top, left in corners])


def window_at(grid: Grid, window: Grid, top: int, left: int) -> torch.Tensor:
    """Return (l,) indices of the patches of the window whose first patch is at (top, left)."""
    rows = torch.arange(top, top + window.rows).view(-1, 1)
    cols = torch.arange(left, left + window.cols)
    return (rows * grid.cols + cols).flatten()


def random_places(
    batch: int, grid: Grid, window: Grid, generator: torch.Generator
) -> torch.Tensor | None:
    """Draw one window for each of B images, (B, l); None where the window is the whole grid."""
    if window == grid:
        return None
    tops = torch.randint(grid.rows - window.rows + 1, (batch,), generator=generator)
    lefts = torch.randint(grid.cols - window.cols + 1, (batch,), generator=generator)
    corners = zip(tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([window_at(grid, window, top, left) for top, left in corners])


def merge(windows: torch.Tensor, window_indices: torch.Tensor, length: int) -> torch.Tensor:
    """Average (B, W, l, C) results of windows at (W, l) places into (B, L, C)."""
    flat = window_indices.flatten().to(windows.device)
    total = windows.new_zeros(len(windows), length, windows.shape[-1])
    total.index_add_(1, flat, windows.flatten(1, 2))
    times = total.new_zeros(length).index_add_(0, flat, torch.ones_like(flat, dtype=total.dtype))
    return total / times.unsqueeze(-1)


def _starts(length: int, side: int) -> list[int]:
    count = -(-length // side)
    if count == 1:
        return [0]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
