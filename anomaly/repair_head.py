"""The repair head: from a patch, its prediction and their difference to "this was altered".

The autoencoder repairs a hidden patch; this small head learns, on synthetic corruption of normal
images, which differences between a patch and its repair mean a defect and which are only hard to
predict (the discriminator of DRAEM, Zavrtanik et al. 2021, on features instead of pixels). One head
for each block.
"""

from collections.abc import Sequence

import torch
from torch import nn

from anomaly.types import Block


class RepairHead(nn.Module):
    """True and predicted cells of each block, (B, N, channels), to logits (B, N)."""

    def __init__(self, blocks: Sequence[Block], width: int) -> None:
        super().__init__()
        self.names = tuple(f"repair.{block.name}" for block in blocks)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(3 * block.channels, width),
                nn.GELU(),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Linear(width, 1),
            )
            for block in blocks
        )

    def forward(
        self, true: Sequence[torch.Tensor], predicted: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Logits of every cell; higher is more anomalous."""
        return [
            head(torch.cat([t, p, t - p], dim=-1)).squeeze(-1)
            for head, t, p in zip(self.heads, true, predicted, strict=True)
        ]
