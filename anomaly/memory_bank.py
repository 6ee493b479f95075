"""A memory of normal patches: the distance to the nearest one is a second opinion.

One bank for each block of the tokens, of a fixed size, so that a model does not grow with its
training set (after PatchCore, Roth et al. 2022).
"""

from collections.abc import Sequence

import torch
from torch import nn

from anomaly.types import Block

_FLOOR = 0.01
_PRODUCTS = 2**18  # 1 MB of them at once


class Memory(nn.Module):
    """True cells of each block, (B, N, channels), to their distances, (B, N)."""

    def __init__(self, blocks: Sequence[Block], size: int) -> None:
        super().__init__()
        self.size = size
        self.names = tuple(f"memory.{block.name}" for block in blocks)
        self.banks = nn.ParameterList(
            nn.Parameter(torch.zeros(size, block.channels), requires_grad=False) for block in blocks
        )

    @torch.no_grad()
    def fit(self, cells: Sequence[torch.Tensor]) -> None:
        """Set each block's bank of normal cells, (K, channels); what exceeds the size is dropped.

        Fewer are repeated: a repeated cell changes no distance.
        """
        for bank, block_cells in zip(self.banks, cells, strict=True):
            bank.copy_(block_cells[torch.arange(self.size) % len(block_cells)])

    def forward(self, cells: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Distance of each cell to the nearest normal one, root mean square over channels."""
        return [
            nearest(block_cells, bank) for block_cells, bank in zip(cells, self.banks, strict=True)
        ]


def nearest(cells: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Root mean square distance of (B, N, C) cells to the nearest of (K, C), (B, N); 0 or more.

    Below .01 it flattens: there the square is rounding, and its root would differ between machines.
    """
    squares = bank.square().sum(dim=1)
    # A few cells after the other: all (N, K) products of an image would not stay in the cache.
    at_once = max(1, _PRODUCTS // len(bank))
    distances = torch.cat(
        [
            torch.addmm(squares, rows, bank.T, alpha=-2).amin(dim=1)
            for rows in torch.split(cells.flatten(0, 1), at_once)
        ]
    )
    square = cells.square().sum(dim=2) + distances.view(cells.shape[:2])
    return (square.clamp(min=0) / cells.shape[2] + _FLOOR**2).sqrt() - _FLOOR
