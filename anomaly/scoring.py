"""Canvases, masks and a model to the error of each patch.

Every patch is hidden under several seeded masks; its error is how far the prediction lies from what
is really there, averaged over repeats. Errors are raw: `anomaly.calibration` makes them comparable.
Never scores un-normalised outputs of a `norm_patches` target: restoring a hidden patch's own mean
and variance would leak the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from anomaly.errors import ConfigError, require_shape
from anomaly.mae import MaskedAutoencoder
from anomaly.masking import MaskingConfig, covering_masks, split_indices
from anomaly.patches import unpatchify
from anomaly.targets import Target, TargetConfig
from anomaly.types import Grid

ErrorKind = Literal["cosine", "l2", "whitened", "msgms"]
_ERROR_KINDS = ("cosine", "l2", "whitened", "msgms")


@dataclass(frozen=True, slots=True)
class ScoringConfig:
    """How predictions become errors; several kinds are scored side by side and averaged later.

    `cosine` and `l2` compare standardised tokens; `whitened` is the Mahalanobis length of the
    residual under the training residuals' covariance; `msgms` compares gradients of the assembled
    image at several scales (pixel targets only). `max_rows` bounds images × masks per forward pass.
    """

    errors: tuple[ErrorKind, ...] = ("cosine", "l2", "whitened")
    masking: MaskingConfig = MaskingConfig()
    max_rows: int = 128

    def __post_init__(self) -> None:
        if not self.errors or not set(self.errors) <= set(_ERROR_KINDS):
            raise ConfigError(f"scoring.errors is {self.errors!r}; want some of {_ERROR_KINDS}")
        if self.max_rows < 1:
            raise ConfigError(f"scoring.max_rows is {self.max_rows}; want 1 or more")


@dataclass(frozen=True, slots=True)
class PatchErrors:
    """Raw errors of B images under R repeats, and what the model expected to see.

    `error` is (B, R, E, L) float32, 0 or more, with E kinds of error; `expected` is (B, L, C), the
    mean prediction.
    """

    error: torch.Tensor
    expected: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Mean over repeats, (B, E, L)."""
        return self.error.mean(dim=1)

    def cpu(self) -> "PatchErrors":
        """Bring both tensors to the CPU."""
        return PatchErrors(self.error.cpu(), self.expected.cpu())

    def __getitem__(self, rows: torch.Tensor) -> "PatchErrors":
        """Pick images by index or bool mask."""
        return PatchErrors(self.error[rows], self.expected[rows])

    @classmethod
    def concatenate(cls, batches: Sequence["PatchErrors"]) -> "PatchErrors":
        """Join batches of images."""
        error = torch.cat([batch.error for batch in batches])
        return cls(error, torch.cat([batch.expected for batch in batches]))


def check_error_suits_target(scoring: ScoringConfig, target: TargetConfig) -> None:
    """Raise `ConfigError` when the error cannot be computed in the target's space."""
    if "msgms" in scoring.errors and (target.kind != "pixels" or target.norm_patches):
        raise ConfigError("scoring.errors 'msgms' needs target.kind 'pixels' without norm_patches")


def image_masks(seeds: list[int], length: int, config: MaskingConfig) -> torch.Tensor:
    """Each image's own covering masks, (B, R, G, L) bool, True is hidden."""
    return torch.stack([covering_masks(length, config, seed) for seed in seeds])


@torch.inference_mode()
def patch_errors(
    model: MaskedAutoencoder,
    error: "TokenError",
    tokens: torch.Tensor,
    masks: torch.Tensor,
    *,
    max_rows: int = 128,
) -> PatchErrors:
    """Score every patch while it is hidden.

    Args:
        model: the masked autoencoder, in evaluation mode.
        error: what makes (B, E, L) errors of predicted and true tokens.
        tokens: (B, L, C) standardised tokens of the images.
        masks: (B, R, G, L) bool, True is hidden; each repeat hides every patch at least once.
        max_rows: images × masks in one forward pass, at most.

    Returns:
        Raw errors per repeat (B, R, E, L) and the mean prediction (B, L, C).
    """
    batch, repeats, _, length = masks.shape
    ok = tokens.shape[:2] == (batch, length)
    require_shape("tokens", tuple(tokens.shape), f"({batch}, {length}, C)", ok=ok)
    predicted = reconstruct(model, tokens, masks, max_rows=max_rows)  # (B, R, L, C)
    errors = torch.stack([error(predicted[:, r], tokens) for r in range(repeats)], dim=1)
    return PatchErrors(errors, predicted.mean(dim=1))


def reconstruct(
    model: MaskedAutoencoder, tokens: torch.Tensor, masks: torch.Tensor, *, max_rows: int
) -> torch.Tensor:
    """Predict every patch from the masks that hide it: (B, R, L, C), the mean where it is several."""
    batch, repeats, parts, length = masks.shape
    channels = tokens.shape[2]
    visible, hidden = split_indices(masks.reshape(-1, length))  # (B·R·G, K) and (B·R·G, Q)
    visible, hidden = visible.to(tokens.device), hidden.to(tokens.device)
    owner = torch.arange(batch, device=tokens.device).repeat_interleave(repeats * parts)
    rows = [
        model(tokens[owner[i]], visible[i], hidden[i]).float()
        for i in (slice(start, start + max_rows) for start in range(0, len(owner), max_rows))
    ]
    total = torch.zeros(batch * repeats * parts, length, channels, device=tokens.device)
    total.scatter_(1, hidden.unsqueeze(-1).expand(-1, -1, channels), torch.cat(rows))
    total = total.view(batch, repeats, parts, length, channels).sum(dim=2)
    times = masks.to(tokens.device).sum(dim=2).unsqueeze(-1)  # (B, R, L, 1), 1 or more
    return total / times


class TokenError(nn.Module):
    """Predicted and true tokens, (B, L, C) each, to errors (B, E, L): float32, 0 or more.

    Its buffers travel with the weights: the whitening of the training residuals for `whitened`,
    the target's own units for `msgms`, which compares images.
    """

    whitening: torch.Tensor
    bias: torch.Tensor
    unit_mean: torch.Tensor
    unit_spread: torch.Tensor

    def __init__(self, kinds: Sequence[ErrorKind], target: Target) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.grid = target.grid
        dim = target.token_dim
        self.register_buffer("unit_mean", torch.zeros(dim))
        self.register_buffer("unit_spread", torch.ones(dim))
        if "whitened" in self.kinds:
            self.register_buffer("whitening", torch.eye(dim))
            self.register_buffer("bias", torch.zeros(dim))

    def fit_units(self, target: Target) -> None:
        """Take over the target's standardisation once it is fitted."""
        self.unit_mean.copy_(target.mean)
        self.unit_spread.copy_(target.spread)

    def fit(self, residuals: torch.Tensor) -> None:
        """Fit the whitening on training residuals (N, C), true minus predicted."""
        if "whitened" in self.kinds:
            whitening, bias = fit_whitening(residuals)
            self.whitening.copy_(whitening)
            self.bias.copy_(bias)

    def forward(self, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Compute each kind of error of each patch."""
        return torch.stack([self._one(kind, predicted, true) for kind in self.kinds], dim=1)

    def _one(self, kind: ErrorKind, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        match kind:
            case "cosine":
                return cosine_error(predicted, true)
            case "l2":
                return l2_error(predicted, true)
            case "whitened":
                return whitened_error(predicted, true, self.whitening, self.bias)
            case "msgms":
                return msgms_error(self._image(predicted), self._image(true), self.grid)

    def _image(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.unit_spread + self.unit_mean


def cosine_error(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """One minus the cosine of predicted and true token, (B, L) in [0, 2]."""
    return 1 - F.cosine_similarity(predicted, true, dim=-1)


def l2_error(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Root mean square difference over channels, (B, L)."""
    return (predicted - true).square().mean(dim=-1).sqrt()


def whitened_error(
    predicted: torch.Tensor, true: torch.Tensor, whitening: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Root mean square of the whitened residual, (B, L): a Mahalanobis distance per patch."""
    residual = true - predicted - bias
    return (residual @ whitening).square().mean(dim=-1).sqrt()


def fit_whitening(
    residuals: torch.Tensor, shrinkage: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit (C, C) whitening and (C,) bias on training residuals (N, C).

    The covariance is shrunk towards a multiple of the identity, so that few images still invert.
    """
    ok = residuals.ndim == 2 and len(residuals) > 1
    require_shape("residuals", tuple(residuals.shape), "(N, C) with N of 2 or more", ok=ok)
    residuals = residuals.double()
    covariance = torch.cov(residuals.T).reshape(residuals.shape[1], -1)
    unit = covariance.diagonal().mean().clamp(min=1e-8) * torch.eye(len(covariance)).double()
    shrunk = covariance + shrinkage * unit
    whitening = torch.linalg.cholesky(torch.linalg.inv(shrunk))
    return whitening.float(), residuals.mean(dim=0).float()


def msgms_error(
    predicted: torch.Tensor, true: torch.Tensor, grid: Grid, scales: int = 3
) -> torch.Tensor:
    """One minus multi-scale gradient magnitude similarity, (B, L) in [0, 1].

    Both are (B, L, P·P·3) in image units (Zavrtanik et al. 2021, RIAD; Xue et al. 2014, GMSD).
    """
    a, b = (unpatchify(t, grid).mean(dim=1, keepdim=True) for t in (predicted, true))
    total = torch.zeros_like(a)
    for scale in range(scales):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        similarity = _gradient_similarity(a, b)
        total += F.interpolate(1 - similarity, size=total.shape[-2:], mode="bilinear")
    return F.avg_pool2d(total / scales, grid.patch).flatten(1)


def _gradient_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([[1.0, 0.0, -1.0]] * 3, device=a.device) / 3  # Prewitt
    kernels = torch.stack([kernel, kernel.T]).unsqueeze(1)

    def magnitude(image: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        return (F.conv2d(padded, kernels).square().sum(dim=1, keepdim=True) + 1e-12).sqrt()

    ga, gb = magnitude(a), magnitude(b)
    c = 0.0026  # GMSD's constant, for images in [0, 1]
    return (2 * ga * gb + c) / (ga.square() + gb.square() + c)
