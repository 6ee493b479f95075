"""Scores on the grid to one number for an image."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from anomaly.errors import ConfigError
from anomaly.types import Grid

_MOST_SMOOTHING = 32.0  # patches: its kernel grows with it


@dataclass(frozen=True, slots=True)
class Reduction:
    """From scores on the grid to one number: Gaussian smoothing, then the mean of the top share.

    `smoothing` is the Gaussian's sigma in patches (0 is none); `top_share` is the share of cells
    that is averaged, from 0 (only the maximum) to 1 (the mean).
    """

    smoothing: float = 0.5
    top_share: float = 0.01

    def __post_init__(self) -> None:
        if not (0 <= self.smoothing <= _MOST_SMOOTHING and 0 <= self.top_share <= 1):
            raise ConfigError(
                f"a reduction has smoothing {self.smoothing} and top_share {self.top_share}; want "
                f"0 to {_MOST_SMOOTHING:g} patches and 0 to 1"
            )

    def smooth(
        self, scores: torch.Tensor, grid: Grid, roi_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Smooth (..., L) scores on their grid.

        Where `roi_mask` (broadcastable bool) is False, a cell says nothing to its neighbours and
        becomes 0.
        """
        if roi_mask is None:
            return self._blur(scores, grid)
        share = self._blur(roi_mask.float(), grid).clamp(min=1e-6)
        return torch.where(roi_mask, self._blur(scores * roi_mask, grid) / share, 0.0)

    def image_score(
        self, smoothed: torch.Tensor, roi_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reduce (..., L) smoothed scores to (...), of the cells where `roi_mask`."""
        if roi_mask is None:
            count = max(1, round(self.top_share * smoothed.shape[-1]))
            return smoothed.topk(count, dim=-1).values.mean(dim=-1)
        ranked = smoothed.masked_fill(~roi_mask, -torch.inf).sort(dim=-1, descending=True).values
        count_by_image = (self.top_share * roi_mask.sum(dim=-1)).round().clamp(min=1).unsqueeze(-1)
        top = torch.arange(ranked.shape[-1]) < count_by_image
        return torch.where(top, ranked, 0.0).sum(dim=-1) / count_by_image.squeeze(-1)

    def __call__(
        self, scores: torch.Tensor, grid: Grid, roi_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Smooth (..., L) scores and reduce them to (...)."""
        return self.image_score(self.smooth(scores, grid, roi_mask), roi_mask)

    def _blur(self, scores: torch.Tensor, grid: Grid) -> torch.Tensor:
        if self.smoothing == 0:
            return scores
        sigma = self.smoothing * grid.cells
        radius = math.ceil(3 * sigma)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = kernel / kernel.sum()
        maps = scores.reshape(-1, 1, grid.rows, grid.cols)
        maps = F.conv2d(F.pad(maps, (0, 0, radius, radius), "replicate"), kernel.view(1, 1, -1, 1))
        maps = F.conv2d(F.pad(maps, (radius, radius, 0, 0), "replicate"), kernel.view(1, 1, 1, -1))
        return maps.reshape(scores.shape)
