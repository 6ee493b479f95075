"""Which patches are hidden. True is hidden, everywhere.

Training draws a random subset; inference uses seeded partitions, so that every patch is hidden a
known number of times and the same image always meets the same masks.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from anomaly.errors import ConfigError, require_shape
from anomaly.types import Grid

MaskKind = Literal["random", "block", "grid", "complementary", "salient"]
MASK_KINDS = ("random", "block", "grid", "complementary", "salient")
_BLOB = 4  # patches between the corners of the noise that blobs are cut from


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
    order = torch.rand(batch, length, generator=generator).argsort(dim=1)
    return order < _hidden(length, mask_ratio)


def training_masks(
    kind: MaskKind,
    salience: torch.Tensor,
    grid: Grid,
    *,
    mask_ratio: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw (B, L) bool masks of a kind; all hide the same number of patches: at least 1, not all.

    `random` hides any patches; `block` blobs (after BEiT, Bao et al. 2022); `grid` the same number
    of every 2 × 2 patches; `salient` those of high `salience` (B, L) more often than others, by
    Gumbel noise (as AttMask does by attention, Kakogeorgiou et al. 2022). `complementary` hides
    half: odd rows hide what even ones show; its ratio is a half whatever is asked.
    """
    batch, length = salience.shape
    require_shape(
        "salience", tuple(salience.shape), f"(B, {grid.length})", ok=length == grid.length
    )
    if kind == "random":
        return random_masks(batch, length, mask_ratio, generator)
    noise = torch.rand(batch, length, generator=generator)
    if kind == "complementary":
        return _complementary(noise)
    if kind == "block":
        noise = _blobs(batch, grid, generator)
    elif kind == "grid":
        noise = _turn_in_cell(noise, grid) + noise / 2
    elif kind == "salient":
        spread = salience.std(dim=1, keepdim=True) + 1e-6
        gumbel = -(-noise.clamp(1e-6, 1 - 1e-6).log()).log()
        noise = -((salience - salience.mean(dim=1, keepdim=True)) / spread + gumbel)
    return _lowest(noise, _hidden(length, mask_ratio))


def _hidden(length: int, mask_ratio: float) -> int:
    return min(max(round(length * mask_ratio), 1), length - 1)


def _complementary(noise: torch.Tensor) -> torch.Tensor:
    masks = _lowest(noise, noise.shape[1] // 2)
    masks[1::2] = ~masks[: len(masks) - 1 : 2][: len(masks[1::2])]
    if noise.shape[1] % 2:  # with an odd number the complement hides one more: show it as well
        extra = masks[1::2].to(torch.uint8).argmax(dim=1, keepdim=True)
        masks[1::2] = masks[1::2].scatter(1, extra, value=False)
    return masks


def _blobs(batch: int, grid: Grid, generator: torch.Generator) -> torch.Tensor:
    """Smooth noise over the grid, (B, L)."""
    shape = (batch, 1, 2 + grid.rows // _BLOB, 2 + grid.cols // _BLOB)
    coarse = torch.randn(shape, generator=generator)
    size = (grid.rows, grid.cols)
    return F.interpolate(coarse, size, mode="bicubic", align_corners=False).flatten(1)


def _turn_in_cell(noise: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Random rank of each patch among its 2 × 2 patches, 0 to 3, (B, L)."""
    rows, cols = 2 * -(-grid.rows // 2), 2 * -(-grid.cols // 2)
    square = F.pad(
        noise.view(-1, 1, grid.rows, grid.cols),
        (0, cols - grid.cols, 0, rows - grid.rows),
        value=2.0,
    )
    cells = F.unfold(square, 2, stride=2).transpose(1, 2)  # (B, cells, 4)
    turns = cells.argsort(dim=2).argsort(dim=2).float().transpose(1, 2)
    back = F.fold(turns, (rows, cols), 2, stride=2)
    return back[:, 0, : grid.rows, : grid.cols].flatten(1)


def _lowest(noise: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` lowest of each row."""
    return noise.argsort(dim=1).argsort(dim=1) < count


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
    """Turn (N, L) bool masks of one hidden count into indices: (N, K) visible, (N, L-K) hidden."""
    hidden = masks.sum(dim=1)
    same = masks.ndim == 2 and bool((hidden == hidden[0]).all())
    require_shape("masks", tuple(masks.shape), "(N, L) with one hidden count", ok=same)
    order = masks.to(torch.uint8).argsort(dim=1, stable=True)
    visible = masks.shape[1] - int(hidden[0])
    return order[:, :visible], order[:, visible:]
