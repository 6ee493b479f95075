"""Raw patch errors to comparable scores, learned from normal images.

A patch on an edge or a coarse texture is always harder to predict than one on a plain face. Three
ways of knowing what is usual: over the whole image; by the patch's place (parts that always lie the
same way); by what the model expected to see there (parts that do not). Each gives z-scores, every
error kind by itself. Which suits a product is decided in `anomaly.calibration`, not here.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from anomaly.errors import require_shape

# A place or texture seen n times keeps n / (n + prior) of its own statistics.
_PRIOR_OF_MEAN, _PRIOR_OF_VARIANCE = 2.0, 20.0
_TEXTURES = 32


@dataclass(frozen=True, slots=True)
class UniformNormaliser:
    """One mean and spread for all patches, (E, 1) each."""

    kind: ClassVar[str] = "uniform"
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def fit(cls, error: torch.Tensor, expected: torch.Tensor) -> "UniformNormaliser":
        """Fit on normal images: error (N, E, L); `expected` is not looked at."""
        _check(error, expected)
        variance, mean = torch.var_mean(error, dim=(0, 2), correction=0)
        return cls(mean.unsqueeze(1), variance.clamp(min=1e-12).sqrt().unsqueeze(1))

    def __call__(self, error: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
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
    def fit(cls, error: torch.Tensor, expected: torch.Tensor) -> "PositionNormaliser":
        """Fit on normal images: error (N, E, L); `expected` is not looked at."""
        _check(error, expected)
        count = torch.full(error.shape[1:], float(len(error)))
        variance, mean = torch.var_mean(error, dim=0, correction=0)
        return cls(*_shrink(mean, variance, count, error))

    def __call__(self, error: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return z-scores (B, R, E, L)."""
        return (error - self.mean) / self.spread

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics by name."""
        return {"mean": self.mean, "spread": self.spread}


@dataclass(frozen=True, slots=True)
class TextureNormaliser:
    """Mean and spread of the error for each kind of expected texture, (E, T) each.

    `centres` (T, C) are k-means centres of the predicted tokens. The prediction is used rather than
    the patch itself because a defect changes the patch, but not what was expected there.
    """

    kind: ClassVar[str] = "texture"
    centres: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def fit(cls, error: torch.Tensor, expected: torch.Tensor) -> "TextureNormaliser":
        """Fit on normal images: error (N, E, L), expected (N, L, C)."""
        _check(error, expected)
        tokens = expected.flatten(0, 1)  # (N·L, C)
        centres = _cluster(tokens, _TEXTURES)
        label = _nearest(tokens, centres)
        flat = error.transpose(0, 1).flatten(1)  # (E, N·L)
        count = torch.bincount(label, minlength=len(centres)).float().clamp(min=1)
        empty = torch.zeros(len(flat), len(centres))
        mean = empty.index_add(1, label, flat) / count
        variance = empty.index_add(1, label, (flat - mean[:, label]).square()) / count
        return cls(centres, *_shrink(mean, variance, count.expand_as(mean), error))

    def __call__(self, error: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return z-scores (B, R, E, L)."""
        label = _nearest(expected.flatten(0, 1), self.centres).view(expected.shape[:2])  # (B, L)
        mean = self.mean[:, label].transpose(0, 1).unsqueeze(1)  # (B, 1, E, L)
        spread = self.spread[:, label].transpose(0, 1).unsqueeze(1)
        return (error - mean) / spread

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the statistics by name."""
        return {"centres": self.centres, "mean": self.mean, "spread": self.spread}


Normaliser = UniformNormaliser | PositionNormaliser | TextureNormaliser
NORMALISERS: dict[str, type[UniformNormaliser] | type[PositionNormaliser] | type[TextureNormaliser]]
NORMALISERS = {
    "uniform": UniformNormaliser,
    "position": PositionNormaliser,
    "texture": TextureNormaliser,
}


def _check(error: torch.Tensor, expected: torch.Tensor) -> None:
    ok = error.ndim == 3 and len(error) > 0 and expected.shape[:2] == (len(error), error.shape[2])
    require_shape("error", tuple(error.shape), f"(N, E, L) like {tuple(expected.shape)}", ok=ok)


def _shrink(
    mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor, error: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pull statistics (E, .) of few samples towards those of all patches of that error kind."""
    all_variance, all_mean = torch.var_mean(error, dim=(0, 2), correction=0)
    floor = (1e-4 * all_variance).clamp(min=1e-12).unsqueeze(1)
    own = count / (count + _PRIOR_OF_MEAN)
    mean = own * mean + (1 - own) * all_mean.unsqueeze(1)
    own = count / (count + _PRIOR_OF_VARIANCE)
    log = variance.maximum(floor).log()  # geometric: one rough place must not widen all the others
    log = own * log + (1 - own) * log.mean(dim=1, keepdim=True)
    return mean, (0.5 * log).exp()


def _cluster(tokens: torch.Tensor, textures: int) -> torch.Tensor:
    sample = tokens[:: max(1, len(tokens) // 50_000)].numpy()
    clusters = min(textures, len(sample))
    fitted = MiniBatchKMeans(clusters, n_init=3, random_state=0, batch_size=4096).fit(sample)
    return torch.from_numpy(np.asarray(fitted.cluster_centers_, dtype=np.float32))


def _nearest(tokens: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    # |t - c|² without |t|², which is the same for every centre
    return (centres.square().sum(dim=1) - 2 * tokens @ centres.T).argmin(dim=1)
