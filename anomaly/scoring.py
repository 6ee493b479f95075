"""Predictions of hidden patches, and how far they lie from what is really there.

Every patch is hidden under several seeded masks and predicted from the rest. Errors are raw:
`anomaly.calibration` makes them comparable. Never scores un-normalised outputs of a `norm_patches`
target: restoring a hidden patch's own mean and variance would leak the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from anomaly.errors import ConfigError, require_shape
from anomaly.mae import MaskedAutoencoder, take
from anomaly.masking import MaskingConfig, covering_masks, split_indices
from anomaly.patches import unpatchify
from anomaly.targets import Target, TargetConfig
from anomaly.types import Grid
from anomaly.windows import merge

ErrorKind = Literal["cosine", "l2", "msgms"]
Family = Literal["masked", "memory", "repair", "labelled"]
_ERROR_KINDS = ("cosine", "l2", "msgms")
_FAMILIES = ("masked", "memory", "repair", "labelled")
_WIDEST_DETAIL = 256


@dataclass(frozen=True, slots=True)
class ScoringConfig:
    """Which evidence is gathered; the calibration weighs it.

    `masked` is the error of predicting hidden patches, by each of `errors`: `cosine` and `l2`
    compare standardised tokens, `msgms` gradients of the assembled image at several scales (pixel
    targets only). `memory` is the distance to the nearest of `memory_size` normal patches; `repair`
    a small head on patch, prediction and difference, trained on synthetic corruption; `labelled` a
    linear one, fitted on what people marked once the rest is trained. `max_rows` bounds windows ×
    masks per forward pass. `detail_width` is the width of the head that says which pixels of a
    suspicious place are altered (0: there is none).
    """

    families: tuple[Family, ...] = ("masked", "memory", "repair")
    errors: tuple[ErrorKind, ...] = ("cosine", "l2")
    masking: MaskingConfig = MaskingConfig()
    memory_size: int = 2000
    repair_width: int = 128
    max_rows: int = 128
    detail_width: int = 0

    def __post_init__(self) -> None:
        if not self.families or not set(self.families) <= set(_FAMILIES):
            raise ConfigError(f"scoring.families is {self.families!r}; want some of {_FAMILIES}")
        if not self.errors or not set(self.errors) <= set(_ERROR_KINDS):
            raise ConfigError(f"scoring.errors is {self.errors!r}; want some of {_ERROR_KINDS}")
        if min(self.max_rows, self.memory_size, self.repair_width) < 1:
            raise ConfigError("scoring.max_rows, memory_size and repair_width must be 1 or more")
        if not 0 <= self.detail_width <= _WIDEST_DETAIL:
            raise ConfigError(
                f"scoring.detail_width is {self.detail_width}; want 0 to {_WIDEST_DETAIL}"
            )
        if self.max_rows > 1024:
            raise ConfigError(f"scoring.max_rows is {self.max_rows}; want 1024 at the most")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Raw evidence on B images under R repeats: `values` is (B, R, E, L) float32.

    E kinds of evidence, named `family.block` or `family.block.kind`, each on the L cells of the map
    grid. Higher is more anomalous; units differ from kind to kind. Who inspects also has
    `differences`, (B, L, C) of the patch grid: what each token is beyond its prediction, from which
    regions are described (`anomaly.description`); what is gathered or joined has none.
    """

    values: torch.Tensor
    names: tuple[str, ...]
    differences: torch.Tensor | None = None

    @property
    def mean(self) -> torch.Tensor:
        """Mean over repeats, (B, E, L)."""
        return self.values.mean(dim=1)

    def cpu(self) -> "Evidence":
        """Bring the values to the CPU; differences, of which few are looked at, stay."""
        return Evidence(self.values.cpu(), self.names, self.differences)

    def averaged(self) -> "Evidence":
        """Return the same evidence averaged over repeats, (B, 1, E, L)."""
        return Evidence(self.values.mean(dim=1, keepdim=True), self.names)

    def __getitem__(self, rows: torch.Tensor | slice) -> "Evidence":
        """Pick images by index, bool mask or slice."""
        return Evidence(self.values[rows], self.names)

    @classmethod
    def concatenate(cls, batches: Sequence["Evidence"]) -> "Evidence":
        """Join batches of images."""
        return cls(torch.cat([batch.values for batch in batches]), batches[0].names)


def check_error_suits_target(scoring: ScoringConfig, target: TargetConfig) -> None:
    """Raise `ConfigError` when the error cannot be computed in the target's space."""
    if "msgms" in scoring.errors and (target.kind != "pixels" or target.norm_patches):
        raise ConfigError("scoring.errors 'msgms' needs target.kind 'pixels' without norm_patches")


def image_masks(
    seeds: Sequence[int], windows: int, length: int, config: MaskingConfig
) -> torch.Tensor:
    """Each image's own covering masks of its windows, (B, W, R, G, l) bool, True is hidden."""
    return torch.stack(
        [
            torch.stack(
                [covering_masks(length, config, seed + window) for window in range(windows)]
            )
            for seed in seeds
        ]
    )


@torch.inference_mode()
def reconstruct(
    model: MaskedAutoencoder,
    tokens: torch.Tensor,
    masks: torch.Tensor,
    window_indices: torch.Tensor,
    *,
    max_rows: int,
) -> torch.Tensor:
    """Predict every patch from the masks that hide it.

    Args:
        model: the masked autoencoder, in evaluation mode.
        tokens: (B, L, C) standardised tokens of the images.
        masks: (B, W, R, G, l) bool, True is hidden; each repeat hides every patch at least once.
        window_indices: (W, l) indices of each window's patches among the L.
        max_rows: windows × masks in one forward pass, at most.

    Returns:
        Predictions (B, R, L, C): the mean where masks or windows predict a patch several times.
    """
    batch, windows, repeats, _, length = masks.shape
    ok = tokens.ndim == 3 and tokens.shape[0] == batch and window_indices.shape == (windows, length)
    require_shape("tokens", tuple(tokens.shape), f"({batch}, L, C)", ok=ok)
    by_repeat = [
        torch.stack(
            [
                _in_chunks(model, take(tokens, indices.expand(batch, -1)), masks[:, w, r], max_rows)
                for w, indices in enumerate(window_indices.to(tokens.device))
            ],
            dim=1,
        )
        for r in range(repeats)
    ]  # R of (B, W, l, C)
    merged = [merge(windows, window_indices, tokens.shape[1]) for windows in by_repeat]
    return torch.stack(merged, dim=1)


def _in_chunks(
    model: MaskedAutoencoder, tokens: torch.Tensor, masks: torch.Tensor, max_rows: int
) -> torch.Tensor:
    """Predict one window's tokens (B, l, C) under masks (B, G, l), so many rows at once at most."""

    def by_rows(rows: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [model(rows[i], *(j[i] for j in indices)) for i in _slices(rows, max_rows)]
        )

    visible, hidden = (
        index.view(*masks.shape[:2], -1).to(tokens.device)
        for index in split_indices(masks.flatten(0, 1))
    )
    images = max(1, max_rows // masks.shape[1])
    chunks = _slices(tokens, images)
    return torch.cat([predict_hidden(by_rows, tokens[i], visible[i], hidden[i]) for i in chunks])


def _slices(tensor: torch.Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(tensor), size)]


def predict_hidden(
    model: Callable[..., torch.Tensor],
    tokens: torch.Tensor,
    visible: torch.Tensor,
    hidden: torch.Tensor,
) -> torch.Tensor:
    """Predict tokens (N, l, C) while hidden: the mean over G masks of each, (N, l, C) float32.

    `visible` (N, G, K) and `hidden` (N, G, Q) are the masks' indices, every patch hidden at least
    once. There is no loop over data: this is what is exported and captured, too.
    """
    count, parts, queries = hidden.shape
    length, channels = tokens.shape[1:]
    rows = tokens[:, None].expand(-1, parts, -1, -1).flatten(0, 1)  # (N·G, l, C)
    index = hidden.reshape(-1, queries)
    predicted = model(rows, visible.flatten(0, 1), index).float()  # (N·G, Q, C)
    if parts * queries == length:  # every patch once: predictions only need their order
        place = torch.arange(length, device=hidden.device).expand(count, -1)
        of_patch = torch.zeros_like(place).scatter(1, hidden.flatten(1), place)
        return take(predicted.view(count, length, channels), of_patch)
    total = torch.zeros(len(index), length, channels, device=tokens.device).scatter(
        1, index.unsqueeze(-1).expand(-1, -1, channels), predicted
    )
    times = torch.zeros(len(index), length, device=tokens.device).scatter(
        1, index, torch.ones_like(index, dtype=torch.float32)
    )
    total = total.view(count, parts, length, channels).sum(dim=1)
    return total / times.view(count, parts, length).sum(dim=1).unsqueeze(-1)


def masked_names(target: Target, kinds: Sequence[ErrorKind]) -> tuple[str, ...]:
    """Names of what `masked_errors` gives, in order."""
    return tuple(f"masked.{block.name}.{kind}" for kind in kinds for block in target.blocks)


def masked_errors(
    target: Target,
    kinds: Sequence[ErrorKind],
    true: Sequence[torch.Tensor],
    predicted: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Errors of predictions by kind and block on the map grid, (B, kinds·blocks, L): 0 or more.

    `true` and `predicted` are each block's cells, (B, N, channels).
    """
    by_kind = []
    for kind in kinds:
        pairs = zip(predicted, true, strict=True)
        by_kind.append(target.on_map([_error(kind, p, t, target) for p, t in pairs]))
    return torch.cat(by_kind, dim=1)


def _error(
    kind: ErrorKind, predicted: torch.Tensor, true: torch.Tensor, target: Target
) -> torch.Tensor:
    match kind:
        case "cosine":
            return cosine_error(predicted, true)
        case "l2":
            return l2_error(predicted, true)
        case "msgms":
            return msgms_error(target.restore(predicted), target.restore(true), target.grid)


def cosine_error(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """One minus the cosine of predicted and true token, (B, L) in [0, 2]."""
    return 1 - F.cosine_similarity(predicted, true, dim=-1)


def l2_error(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Root mean square difference over channels, (B, L)."""
    return (predicted - true).square().mean(dim=-1).sqrt()


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
    # Prewitt, made where it is used: a capture on a GPU takes nothing from ordinary memory.
    kernel = (1.0 - torch.arange(3.0, device=a.device)).expand(3, 3) / 3
    kernels = torch.stack([kernel, kernel.T]).unsqueeze(1)

    def magnitude(image: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        return (F.conv2d(padded, kernels).square().sum(dim=1, keepdim=True) + 1e-12).sqrt()

    ga, gb = magnitude(a), magnitude(b)
    c = 0.0026  # GMSD's constant, for images in [0, 1]
    return (2 * ga * gb + c) / (ga.square() + gb.square() + c)
