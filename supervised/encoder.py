"""The masked autoencoder's encoder over whole images: every token visible, no decoder.

Of pixel targets the tokens are patches; of feature targets they are the features of the frozen
backbone, which stays frozen. Where the autoencoder saw windows of a canvas, or another canvas, its
positions are interpolated to the grid, as is done when a vision transformer is tuned at another
resolution (Dosovitskiy et al. 2021). Knows no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import nn

from anomaly.mae import MaeConfig, MaskedAutoencoder
from anomaly.model import AnomalyModel
from anomaly.preprocess import PreprocessConfig
from anomaly.targets import Target, TargetConfig, build_target, empty_target
from anomaly.types import Grid


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What decides what the encoder computes; the decoder's part of `mae` is not used."""

    preprocess: PreprocessConfig = PreprocessConfig()
    target: TargetConfig = TargetConfig()
    mae: MaeConfig = MaeConfig()


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's output, before its final norm: each head normalises as it needs.

    `class_token` is (B, D), None where the autoencoder has none; `tokens` (B, L, D) are the last
    block's; `maps` are (B, D, rows, cols), one for each block asked for.
    """

    class_token: torch.Tensor | None
    tokens: torch.Tensor
    maps: tuple[torch.Tensor, ...] = ()


class Encoder(nn.Module):
    """Canvases (B, 3, S, S) in [0, 1] to `Encoded`."""

    def __init__(self, config: EncoderConfig, target: Target) -> None:
        super().__init__()
        self.config = config
        self.target = target.requires_grad_(requires_grad=False)
        mae = MaskedAutoencoder(config.mae, target.grid, target.token_dim)
        self.embed, self.position, self.class_token = mae.embed, mae.position, mae.class_token
        self.blocks, self.norm = mae.blocks, mae.norm

    @classmethod
    def fresh(cls, config: EncoderConfig) -> "Encoder":
        """Build an untrained encoder, with the backbone's published weights where there is one."""
        return cls(config, build_target(config.target, config.preprocess.canvas))

    @classmethod
    def empty(cls, config: EncoderConfig) -> "Encoder":
        """Build an encoder whose weights, the backbone's included, are yet to be loaded."""
        return cls(config, empty_target(config.target, config.preprocess.canvas))

    @classmethod
    def pretrained(cls, model: AnomalyModel) -> "Encoder":
        """Take over a trained autoencoder's encoder, on the canvas of its model."""
        before = model.config
        config = EncoderConfig(before.preprocess, before.target, before.mae)
        encoder = cls(config, model.target)
        state = {k: v for k, v in model.mae.state_dict().items() if not k.startswith("decoder.")}
        state["position"] = resampled(state["position"], model.window, encoder.grid)
        encoder.load_state_dict(state | encoder._target_state())
        return encoder

    def on(self, canvas: int) -> "Encoder":
        """Return the same encoder on another canvas; its positions are interpolated."""
        if canvas == self.config.preprocess.canvas:
            return self
        config = replace(self.config, preprocess=replace(self.config.preprocess, canvas=canvas))
        encoder = Encoder(config, self._target_on(canvas))
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("target.")}
        state["position"] = resampled(state["position"], self.grid, encoder.grid)
        encoder.load_state_dict(state | encoder._target_state())
        return encoder

    def untrained(self) -> "Encoder":
        """Return one of the same form on the same tokens, with weights drawn anew."""
        encoder = Encoder(self.config, self.target)
        if encoder.class_token is not None:
            nn.init.normal_(encoder.class_token, std=0.02)
        return encoder

    def _target_on(self, canvas: int) -> Target:
        backbone = getattr(self.target, "backbone", None)
        target = build_target(self.config.target, canvas, backbone=backbone)
        target.mean.copy_(self.target.mean)
        target.spread.copy_(self.target.spread)
        return target

    def _target_state(self) -> dict[str, torch.Tensor]:
        return {f"target.{name}": value for name, value in self.target.state_dict().items()}

    @property
    def grid(self) -> Grid:
        """Rows and columns of the tokens."""
        return self.target.grid

    @property
    def width(self) -> int:
        """Channels of a token, D."""
        return self.config.mae.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.config.mae.depth

    def forward(self, pixels: torch.Tensor, blocks: Sequence[int] = ()) -> Encoded:
        """Encode (B, 3, S, S); `blocks` are indices of blocks whose maps are wanted, ascending."""
        with torch.no_grad():
            tokens = self.target(pixels)  # (B, L, C)
        x = self.embed(tokens) + self.position  # (B, L, D)
        first = 0
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
            first = 1
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in blocks:
                maps.append(self.as_map(x[:, first:]))
        return Encoded(x[:, 0] if first else None, x[:, first:], tuple(maps))

    def as_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """Lay (B, L, D) tokens out as (B, D, rows, cols)."""
        batch, _, width = tokens.shape
        return tokens.transpose(1, 2).reshape(batch, width, self.grid.rows, self.grid.cols)

    def drop_paths(self, rate: float) -> None:
        """Skip residual branches at random in training, from never in the first block to `rate`."""
        rates = torch.linspace(0, rate, self.depth).tolist()
        for block, share in zip(self.blocks, rates, strict=True):
            block.drop_path1 = DropPath(share) if share else nn.Identity()
            block.drop_path2 = DropPath(share) if share else nn.Identity()

    def train_last(self, blocks: int) -> None:
        """Freeze all but the last `blocks` blocks and the final norm; 0 freezes everything."""
        self.requires_grad_(requires_grad=False)
        if blocks:
            for block in self.blocks[-blocks:]:
                block.requires_grad_(requires_grad=True)
            self.norm.requires_grad_(requires_grad=True)


def resampled(position: torch.Tensor, before: Grid, after: Grid) -> torch.Tensor:
    """Interpolate (1, l, D) positions of one grid to another's (1, L, D)."""
    if (before.rows, before.cols) == (after.rows, after.cols):
        return position
    square = position.transpose(1, 2).reshape(1, -1, before.rows, before.cols)
    size = (after.rows, after.cols)
    fine = F.interpolate(square, size=size, mode="bicubic", align_corners=False)
    return fine.flatten(2).transpose(1, 2)
