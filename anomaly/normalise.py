"""Raw evidence to comparable scores, learned from normal images.

Two ways of knowing what is usual: over the whole image, and by the patch's place (parts that always
lie the same way). Each gives z-scores, every kind of evidence by itself. Which one suits a product
is decided in `anomaly.calibration`, not here.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from anomaly.errors import require_shape

# A place seen n times keeps n / (n + prior) of its own statistics.
_PRIOR_OF_MEAN, _PRIOR_OF_VARIANCE = 2.0, 20.0


@dataclass(frozen=True, slots=True)
class UniformNormaliser:
    """One mean and spread for all patches, (E, 1) each."""

    kind: ClassVar[str] = "uniform"
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def fit(cls, error: torch.Tensor, roi_mask: torch.Tensor | None = None) -> "UniformNormaliser":
        """Fit on normal images: error (N, E, L), of the cells where `roi_mask` (N, L)."""
        _check(error)
        variance, mean = _overall(error, roi_mask)
        return cls(mean, variance.clamp(min=1e-12).sqrt())

    def __call__(self, error: torch.Tensor) -> torch.Tensor:
        """Return z-scores (B, R, E, L)."""
        return (error - self.mean) / self.spread

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics by name."""
        return {"mean": self.mean, "spread": self.spread}


@dataclass(frozen=True, slots=True)
class PositionNormaliser:
    """Mean and spread of the error at each place, (E, L) each."""

    kind: ClassVar[str] = "position"
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def fit(cls, error: torch.Tensor, roi_mask: torch.Tensor | None = None) -> "PositionNormaliser":
        """Fit on normal images' error (N, E, L); places of few samples lean on `roi_mask` cells."""
        _check(error)
        variance, mean = torch.var_mean(error, dim=0, correction=0)
        return cls(*_shrink(mean, variance, len(error), _overall(error, roi_mask)))

    def __call__(self, error: torch.Tensor) -> torch.Tensor:
        """Return z-scores (B, R, E, L)."""
        return (error - self.mean) / self.spread

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics by name."""
        return {"mean": self.mean, "spread": self.spread}


Normaliser = UniformNormaliser | PositionNormaliser
NORMALISERS: dict[str, type[UniformNormaliser] | type[PositionNormaliser]]
NORMALISERS = {"uniform": UniformNormaliser, "position": PositionNormaliser}


def _check(error: torch.Tensor) -> None:
    ok = error.ndim == 3 and len(error) > 0
    require_shape("error", tuple(error.shape), "(N, E, L) with N of 1 or more", ok=ok)


def _overall(
    error: torch.Tensor, roi_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean of each kind over all cells that count, (E, 1) each."""
    kinds = error.movedim(1, 0)  # (E, N, L)
    cells = kinds.flatten(1) if roi_mask is None else kinds[:, roi_mask]
    return torch.var_mean(cells, dim=1, correction=0, keepdim=True)


def _shrink(
    mean: torch.Tensor,
    variance: torch.Tensor,
    count: int,
    overall: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pull statistics (E, L) of few samples towards those of all patches of that error kind."""
    all_variance, all_mean = overall
    floor = (1e-4 * all_variance).clamp(min=1e-12)
    share = count / (count + _PRIOR_OF_MEAN)
    mean = share * mean + (1 - share) * all_mean
    share = count / (count + _PRIOR_OF_VARIANCE)
    log = variance.maximum(floor).log()  # geometric: one rough place must not widen all the others
    log = share * log + (1 - share) * log.mean(dim=1, keepdim=True)
    return mean, (0.5 * log).exp()
