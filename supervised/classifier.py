"""Classification: the kind of the image as a whole, from a pooled token and one linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from anomaly.errors import ConfigError
from anomaly.types import Placement
from supervised.encoder import Encoder
from supervised.network import SupervisedNetwork
from supervised.types import Answer, ClassScore


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """How tokens become logits (He et al. 2022, appendix A).

    `average` is the mean of the patches' tokens, normalised by a norm of the head (`fc_norm` of the
    official code); `token` is the class token after the encoder's own norm. `batch_norm` without
    scale and shift stands before the layer when a frozen encoder is probed.
    """

    pooling: Literal["average", "token"] = "average"
    batch_norm: bool = False


class Classifier(SupervisedNetwork):
    """Canvases to logits (B, K)."""

    def __init__(
        self, encoder: Encoder, classes: tuple[str, ...], config: ClassifierConfig
    ) -> None:
        super().__init__(encoder, classes)
        if config.pooling == "token" and encoder.class_token is None:
            raise ConfigError(
                "head.pooling is 'token', but this autoencoder has no class token; want 'average'"
            )
        self.pooling = config.pooling
        width, eps = encoder.width, encoder.config.mae.norm_eps
        if config.pooling == "average":
            encoder.norm = nn.Identity()  # type: ignore[assignment]
            self.norm: nn.Module = nn.LayerNorm(width, eps)
        else:
            self.norm = nn.Identity()
        self.batch_norm = (
            nn.BatchNorm1d(width, affine=False, eps=1e-6) if config.batch_norm else None
        )
        self.head = nn.Linear(width, len(classes))
        nn.init.trunc_normal_(self.head.weight, std=0.01 if config.batch_norm else 2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) canvases in [0, 1] to logits (B, K)."""
        encoded = self.encoder(pixels)
        if self.pooling == "token":
            pooled = self.encoder.norm(encoded.class_token)  # (B, D)
        else:
            pooled = self.norm(encoded.tokens.mean(dim=1))  # (B, D)
        if self.batch_norm is not None:
            pooled = self.batch_norm(pooled)
        logits: torch.Tensor = self.head(pooled)
        return logits

    def answers(self, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Answer]:
        """Probabilities of all kinds, the likeliest first."""
        return answers_of(self(pixels), placements, self.classes)


def answers_of(
    logits: torch.Tensor, placements: Sequence[Placement], classes: tuple[str, ...]
) -> list[Answer]:
    """Turn logits (B, K) into answers."""
    probabilities = logits.float().softmax(dim=1).cpu()
    answers = []
    for row, placement in zip(probabilities, placements, strict=True):
        order = row.argsort(descending=True, stable=True).tolist()
        scores = tuple(ClassScore(classes[i], float(row[i])) for i in order)
        answers.append(Answer(placement, classes=scores))
    return answers
