"""Which patches are hidden. True is hidden, everywhere.

Training draws a random subset; inference uses seeded partitions, so that every patch is hidden a
known number of times and the same image always meets the same masks.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from anomaly.errors import ConfigError, require_shape


@dataclass(frozen=True, slots=True)
class MaskingConfig:
    """How an inspection hides patches.

    The patches are split at random into `parts`. With `show="rest"` each part is hidden in turn;
    with `show="part"` each part is the only one seen. `repeats` fresh splits follow one another.
    """

    parts: int = 2
    repeats: int = 2
    show: Literal["rest", "part"] = "rest"

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ConfigError(f"masking.parts is {self.parts}; want 2 or more")
        if self.repeats < 1:
            raise ConfigError(f"masking.repeats is {self.repeats}; want 1 or more")
        if self.show not in ("rest", "part"):
            raise ConfigError(f"masking.show is {self.show!r}; want 'rest' or 'part'")


def random_masks(
    batch: int, length: int, mask_ratio: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw (B, L) bool masks that each hide the same number of patches, at least 1, not all."""
    hidden = min(max(round(length * mask_ratio), 1), length - 1)
    order = torch.rand(batch, length, generator=generator).argsort(dim=1)
    return order < hidden


def covering_masks(length: int, config: MaskingConfig, seed: int) -> torch.Tensor:
    """Return (R, G, L) bool masks; in each of the R repeats every patch is hidden at least once.

    All masks hide the same number of patches, so they can share one batch: where G does not divide
    L, the last part borrows a few patches of the first and those are hidden once more.
    """
    require_shape(
        "length", (length,), f"at least {config.parts} patches", ok=length >= config.parts
    )
    generator = torch.Generator().manual_seed(seed)
    size = -(-length // config.parts)
    positions = torch.arange(config.parts * size) % length
    masks = torch.zeros(config.repeats, config.parts, length, dtype=torch.bool)
    for repeat in range(config.repeats):
        order = torch.randperm(length, generator=generator)
        members = order[positions].view(config.parts, size)
        masks[repeat].scatter_(1, members, value=True)
    return masks if config.show == "rest" else ~masks


def split_indices(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn (N, L) bool masks of one hidden count into (N, K) visible and (N, L-K) hidden indices."""
    hidden = masks.sum(dim=1)
    same = masks.ndim == 2 and bool((hidden == hidden[0]).all())
    require_shape("masks", tuple(masks.shape), "(N, L) with one hidden count", ok=same)
    order = masks.to(torch.uint8).argsort(dim=1, stable=True)
    visible = masks.shape[1] - int(hidden[0])
    return order[:, :visible], order[:, visible:]
