"""The masked autoencoder: tokens in, predictions of hidden tokens out.

The encoder sees visible tokens only (He et al. 2022, "Masked Autoencoders Are Scalable Vision
Learners"). Two decoders: `query` answers for any position by cross-attention to the encoded tokens,
with no attention among queries (Fu et al. 2024, "Rethinking Patch Dependence for Masked
Autoencoders"); `classic` is the paper's mask-token decoder with self-attention over all positions.
The model does not know what its tokens are, nor how errors become scores.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import nn

from anomaly.errors import ConfigError, require_shape
from anomaly.types import Grid


@dataclass(frozen=True, slots=True)
class MaeConfig:
    """Sizes of the encoder and the decoder; widths must be divisible by their heads.

    `window` is the side, in patches, of the square of tokens it sees at once; a larger grid is
    covered by overlapping windows.
    """

    width: int = 192
    depth: int = 4
    heads: int = 6
    decoder: Literal["query", "classic"] = "query"
    decoder_width: int = 192
    decoder_depth: int = 2
    decoder_heads: int = 6
    positions: Literal["learned", "sincos"] = "learned"
    class_token: bool = False
    norm_eps: float = 1e-6
    window: int = 14

    def __post_init__(self) -> None:
        heads = min(self.heads, self.decoder_heads)
        if min(heads, self.width, self.decoder_width, self.window) < 1:
            raise ConfigError("mae.window, widths and heads must be 1 or more")
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise ConfigError("mae.width and mae.decoder_width must be divisible by their heads")
        if min(self.depth, self.decoder_depth) < 1 or max(self.depth, self.decoder_depth) > 128:
            raise ConfigError("mae.depth and mae.decoder_depth must be 1 to 128")
        if not 0 < self.norm_eps < 1:
            raise ConfigError(f"mae.norm_eps is {self.norm_eps}; want more than 0 and less than 1")
        if self.decoder not in ("query", "classic"):
            raise ConfigError(f"mae.decoder is {self.decoder!r}; want 'query' or 'classic'")
        if self.positions not in ("learned", "sincos"):
            raise ConfigError(f"mae.positions is {self.positions!r}; want 'learned' or 'sincos'")
        if self.positions == "sincos" and (self.width % 4 or self.decoder_width % 4):
            raise ConfigError("sine-cosine positions need widths divisible by 4")


class MaskedAutoencoder(nn.Module):
    """Predicts hidden tokens (B, Q, C) from the visible ones of (B, L, C)."""

    def __init__(self, config: MaeConfig, grid: Grid, token_dim: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(token_dim, config.width)
        self.position = _positions(config.positions, grid, config.width)
        self.class_token = _class_token(config)
        self.blocks = nn.ModuleList(
            _block(config.width, config.heads, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.decoder = _DECODERS[config.decoder](config, grid, token_dim)
        self.apply(_initialise)

    def forward(
        self, tokens: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """Predict the tokens at `queries`, given those at `visible`.

        Args:
            tokens: (B, L, C) standardised tokens; only those at `visible` are read.
            visible: (B, K) indices of the patches that are seen.
            queries: (B, Q) indices of the patches to predict.

        Returns:
            (B, Q, C) predictions, in the units of `tokens`.
        """
        encoded = self.encode(tokens, visible)  # (B, K, D)
        decoded: torch.Tensor = self.decoder(encoded, visible, queries)  # (B, Q, C)
        return decoded

    def encode(self, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Encode the visible tokens: (B, K, D), with the class token in front if there is one."""
        length, dim = self.position.shape[1], self.embed.in_features
        ok = tokens.ndim == 3 and tokens.shape[1:] == (length, dim)
        require_shape("tokens", tuple(tokens.shape), f"(B, {length}, {dim})", ok=ok)
        x = self.embed(take(tokens, visible)) + take(self.position, visible)  # (B, K, D)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        encoded: torch.Tensor = self.norm(x)
        return encoded


class QueryDecoder(nn.Module):
    """Answers each query by cross-attention to the encoded tokens; queries never see each other."""

    def __init__(self, config: MaeConfig, grid: Grid, token_dim: int) -> None:
        super().__init__()
        width = config.decoder_width
        self.embed = nn.Linear(config.width, width)
        self.query = _positions(config.positions, grid, width)
        self.query_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            CrossBlock(width, config.decoder_heads) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, token_dim)

    def forward(
        self, encoded: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """Map (B, K, D) encoded and (B, Q) positions to (B, Q, C); `encoded` holds `visible`."""
        memory = self.embed(encoded)
        x = take(self.query, queries) + self.query_token  # (B, Q, D)
        for block in self.blocks:
            x = block(x, memory)
        predicted: torch.Tensor = self.predict(self.norm(x))
        return predicted


class ClassicDecoder(nn.Module):
    """The paper's decoder: mask tokens at hidden places, self-attention over all L positions."""

    def __init__(self, config: MaeConfig, grid: Grid, token_dim: int) -> None:
        super().__init__()
        width = config.decoder_width
        self.embed = nn.Linear(config.width, width)
        self.position = _positions(config.positions, grid, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.has_class_token = config.class_token
        self.blocks = nn.ModuleList(
            _block(width, config.decoder_heads, config.norm_eps)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.predict = nn.Linear(width, token_dim)

    def forward(
        self, encoded: torch.Tensor, visible: torch.Tensor, queries: torch.Tensor
    ) -> torch.Tensor:
        """(B, K, D) encoded with its (B, K) places, and (B, Q) queries, to (B, Q, C)."""
        seen = self.embed(encoded)
        first = int(self.has_class_token)
        head, seen = seen[:, :first], seen[:, first:]
        batch, length, width = len(seen), self.position.shape[1], seen.shape[2]
        indices = visible.unsqueeze(-1).expand(-1, -1, width)
        masked = self.mask_token.to(seen.dtype).expand(batch, length, -1)
        x = masked.scatter(1, indices, seen) + self.position  # (B, L, D)
        x = torch.cat([head, x], dim=1)  # the class token has a position of zeros, as in the paper
        for block in self.blocks:
            x = block(x)
        predicted: torch.Tensor = self.predict(self.norm(x[:, first:]))
        return take(predicted, queries)


class CrossBlock(nn.Module):
    """Pre-norm cross-attention to a memory, then a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = True  # as timm's blocks have it
        self.norm_query = nn.LayerNorm(width)
        self.norm_memory = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """(B, Q, D) queries and (B, K, D) memory to (B, Q, D)."""
        batch, queries, width = x.shape
        heads, dim = self.heads, width // self.heads
        key_value = self.to_key_value(self.norm_memory(memory)).view(batch, -1, 2, heads, dim)
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (B, heads, K, D/heads)
        query = self.to_query(self.norm_query(x)).view(batch, queries, heads, dim).transpose(1, 2)
        if self.fused_attn:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attended = ((query * dim**-0.5) @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        x = x + self.project(attended.transpose(1, 2).reshape(batch, queries, width))
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]


def take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick tokens by position: (B or 1, L, D) and (B, N) indices to (B, N, D).

    Whole rows are looked up: an index for every number of a row would be longer than the rows.
    """
    batch, length = tokens.shape[:2]
    if batch > 1:
        first = length * torch.arange(batch, device=index.device)
        index = index + first.unsqueeze(1)
    return F.embedding(index, tokens.flatten(0, 1))


def sincos_positions(grid: Grid, width: int) -> torch.Tensor:
    """Fixed 2-D sine-cosine positions (1, L, D), columns first, as the official MAE stores them."""
    rows, cols = torch.meshgrid(
        torch.arange(grid.rows, dtype=torch.float64),
        torch.arange(grid.cols, dtype=torch.float64),
        indexing="ij",
    )
    half = torch.cat([_sincos(cols, width // 2), _sincos(rows, width // 2)], dim=1)
    return half.float().unsqueeze(0)


def _sincos(coordinate: torch.Tensor, width: int) -> torch.Tensor:
    frequency = 10000 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = coordinate.reshape(-1, 1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _block(width: int, heads: int, norm_eps: float) -> Block:
    norm: Any = partial(nn.LayerNorm, eps=norm_eps)
    return Block(width, heads, qkv_bias=True, norm_layer=norm)


def _positions(kind: str, grid: Grid, width: int) -> nn.Parameter:
    if kind == "sincos":
        return nn.Parameter(sincos_positions(grid, width), requires_grad=False)
    return nn.Parameter(0.02 * torch.randn(1, grid.length, width))


def _class_token(config: MaeConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_DECODERS: dict[str, type[QueryDecoder] | type[ClassicDecoder]] = {
    "query": QueryDecoder,
    "classic": ClassicDecoder,
}
