"""The trained parts together: canvases in, raw patch errors out. Knows no calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from anomaly.mae import MaeConfig, MaskedAutoencoder
from anomaly.preprocess import PreprocessConfig
from anomaly.scoring import (
    PatchErrors,
    ScoringConfig,
    TokenError,
    check_error_suits_target,
    image_masks,
    patch_errors,
)
from anomaly.targets import Target, TargetConfig, build_target, empty_backbone


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides what a model computes; stored in its manifest."""

    preprocess: PreprocessConfig = PreprocessConfig()
    target: TargetConfig = TargetConfig()
    mae: MaeConfig = MaeConfig()
    scoring: ScoringConfig = ScoringConfig()

    def __post_init__(self) -> None:
        check_error_suits_target(self.scoring, self.target)


class AnomalyModel(nn.Module):
    """Target, masked autoencoder and error measure of one product."""

    def __init__(self, config: ModelConfig, target: Target) -> None:
        super().__init__()
        self.config = config
        self.target = target
        self.mae = MaskedAutoencoder(config.mae, target.grid, target.token_dim)
        self.error = TokenError(config.scoring.errors, target)

    @classmethod
    def fresh(cls, config: ModelConfig) -> "AnomalyModel":
        """Build an untrained model with the backbone's published weights."""
        return cls(config, build_target(config.target, config.preprocess.canvas))

    @classmethod
    def empty(cls, config: ModelConfig) -> "AnomalyModel":
        """Build a model whose weights, the backbone's included, are yet to be loaded."""
        features = config.target.kind == "features"
        backbone = empty_backbone(config.target) if features else None
        target = build_target(config.target, config.preprocess.canvas, backbone=backbone)
        return cls(config, target)

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, seeds: Sequence[int]) -> PatchErrors:
        """Raw errors of (B, 3, S, S) canvases in [0, 1]; image i is masked by seed i."""
        tokens = self.target(pixels)  # (B, L, C)
        masks = image_masks(list(seeds), tokens.shape[1], self.config.scoring.masking)
        return patch_errors(
            self.mae, self.error, tokens, masks, max_rows=self.config.scoring.max_rows
        )
