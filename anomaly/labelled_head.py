"""The labelled head: what people marked as defective, told from all else by a linear rule.

Fitted on a handful of masks (`training.labelled`), so it can only be simple: a weight for each
channel of a patch and of its difference from the prediction. Of what nobody marked it knows
nothing. So it may accuse and hardly excuse: below the highest logits of good parts little of it is
left. And the calibration lets it speak only as far as it blinds nobody (`anomaly.calibrate`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from anomaly.types import Block

_LEFT = 0.1  # of what lies below zero


class LabelledHead(nn.Module):
    """True and predicted cells of each block, (B, N, channels), to its share of the logit, (B, N).

    The shares of all blocks, each brought to the map's grid, add up to the logit of a cell; higher
    is more like what was marked, and hardly a cell of a good part is above 0.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.names = ("labelled.cells",)
        self.heads = nn.ModuleList(nn.Linear(2 * block.channels, 1) for block in blocks)
        self.fit([torch.zeros(2 * block.channels) for block in blocks], 0.0)

    @torch.no_grad()
    def fit(self, weights: Sequence[torch.Tensor], bias: float) -> None:
        """Set each block's weights, (2·channels,) in the order of `inputs`, and the bias of all.

        With the bias, nearly all cells of good parts must lie below 0.
        """
        for number, (head, values) in enumerate(zip(self.heads, weights, strict=True)):
            assert isinstance(head, nn.Linear)
            head.weight.copy_(values.view(1, -1))
            head.bias.fill_(0.0 if number else bias)  # once: what is interpolated keeps a constant

    def forward(
        self, true: Sequence[torch.Tensor], predicted: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Each block's share of the logit."""
        cells = inputs(true, predicted)
        return [head(x).squeeze(-1) for head, x in zip(self.heads, cells, strict=True)]

    def joined(self, shares: torch.Tensor) -> torch.Tensor:
        """Join the blocks' shares on the map, (B, blocks, L), to one map, (B, 1, L)."""
        return accusing(shares.sum(dim=1, keepdim=True))


def accusing(logits: torch.Tensor) -> torch.Tensor:
    """Leave what is above 0, and little of what is below."""
    return F.leaky_relu(logits, _LEFT)


def inputs(true: Sequence[torch.Tensor], predicted: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What the head sees of each block's cells, (B, N, 2·channels): patch and difference."""
    return [torch.cat([t, t - p], dim=-1) for t, p in zip(true, predicted, strict=True)]
