"""The trained parts together: canvases in, raw evidence out. Knows no calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from anomaly.detail_head import DetailHead
from anomaly.errors import ConfigError
from anomaly.labelled_head import LabelledHead
from anomaly.mae import MaeConfig, MaskedAutoencoder
from anomaly.masking import MaskingConfig
from anomaly.memory_bank import Memory
from anomaly.preprocess import PreprocessConfig
from anomaly.repair_head import RepairHead
from anomaly.scoring import (
    Evidence,
    ScoringConfig,
    check_error_suits_target,
    image_masks,
    masked_errors,
    masked_names,
    reconstruct,
)
from anomaly.targets import Target, TargetConfig, build_target, empty_target
from anomaly.windows import window_indices, window_of

_MOST_ROWS = 4096  # windows × masks of an image
_MARGIN = 4  # cells that the detail head sees around what is suspicious


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that decides what a model computes; stored in its manifest."""

    preprocess: PreprocessConfig = PreprocessConfig()
    target: TargetConfig = TargetConfig()
    mae: MaeConfig = MaeConfig()
    scoring: ScoringConfig = ScoringConfig()

    def __post_init__(self) -> None:
        check_error_suits_target(self.scoring, self.target)
        side = max(1, self.preprocess.canvas // self.target.patch)
        if side % self.preprocess.bands:
            raise ConfigError(
                f"the canvas of {self.preprocess.canvas} px has {side} rows of patches, which are "
                f"no whole number for each of {self.preprocess.bands} bands"
            )
        windows = (-(-side // min(side, self.mae.window))) ** 2
        rows = windows * self.scoring.masking.repeats * self.scoring.masking.parts
        if rows > _MOST_ROWS:
            raise ConfigError(
                f"an image would be {rows} windows × masks, more than {_MOST_ROWS}; want a "
                "smaller canvas, larger patches or windows, or fewer masks"
            )


class AnomalyModel(nn.Module):
    """Target, masked autoencoder, kinds of evidence and the detail head of one product."""

    def __init__(self, config: ModelConfig, target: Target) -> None:
        super().__init__()
        self.config = config
        self.target = target
        self.window = window_of(target.grid, config.mae.window)
        self.window_indices = window_indices(target.grid, self.window)  # (W, l)
        self.mae = MaskedAutoencoder(config.mae, self.window, target.token_dim)
        scoring, blocks = config.scoring, target.blocks
        self.memory = Memory(blocks, scoring.memory_size) if "memory" in scoring.families else None
        self.repair = (
            RepairHead(blocks, scoring.repair_width) if "repair" in scoring.families else None
        )
        width = scoring.detail_width  # last: the others' first weights do not depend on it
        self.labelled: LabelledHead | None = None  # not yet: what the detail head sees stays
        self.detail = DetailHead(len(self.names), width) if width else None
        self.labelled = LabelledHead(blocks) if "labelled" in scoring.families else None

    @classmethod
    def fresh(cls, config: ModelConfig) -> "AnomalyModel":
        """Build an untrained model with the backbone's published weights."""
        return cls(config, build_target(config.target, config.preprocess.canvas))

    @classmethod
    def empty(cls, config: ModelConfig) -> "AnomalyModel":
        """Build a model whose weights, the backbone's included, are yet to be loaded."""
        return cls(config, empty_target(config.target, config.preprocess.canvas))

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        """Raw evidence on (B, 3, S, S) canvases in [0, 1]; image i is masked by seed i."""
        # 1. Tokens: what is to be predicted, pixels or features of the frozen backbone.
        tokens = self.target(pixels)  # (B, L, C)
        # 2. Predict every token while it is hidden, under R drawings of masks.
        predicted = self.predict(tokens, seeds)  # (B, R, L, C)
        # 3. Compare: errors of prediction, distance to the memory, the opinions of the heads.
        return self.evidence(tokens, predicted)  # (B, R, E, L)

    @torch.inference_mode()
    def inspect(self, pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        """Gather the same evidence, and what of each token was not predicted."""
        tokens = self.target(pixels)
        predicted = self.predict(tokens, seeds)
        evidence = self.evidence(tokens, predicted)
        return replace(evidence, differences=self.differences(tokens, predicted))

    def differences(self, tokens: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Subtract the mean prediction (B, R, L, C) from tokens, both standardised: (B, L, C)."""
        return self.target.to_predict(tokens) - predicted.mean(dim=1)

    def predict(
        self, tokens: torch.Tensor, seeds: Sequence[int], masking: MaskingConfig | None = None
    ) -> torch.Tensor:
        """Predict all of (B, L, C) standardised tokens while hidden, (B, R, L, C).

        `masking` is the configured one unless another is given.
        """
        scoring = self.config.scoring
        masks = image_masks(
            seeds, len(self.window_indices), self.window.length, masking or scoring.masking
        )
        return reconstruct(self.mae, tokens, masks, self.window_indices, max_rows=scoring.max_rows)

    def evidence(self, tokens: torch.Tensor, predicted: torch.Tensor) -> Evidence:
        """Compare (B, L, C) tokens with their predictions (B, R, L, C)."""
        target, kinds = self.target, self.config.scoring.errors
        true = target.cells(target.to_predict(tokens))
        memory = None if self.memory is None else target.on_map(self.memory(true))
        repeats = []
        for repeat in predicted.unbind(dim=1):
            guess = target.cells(repeat)
            kinds_found = []
            if self.has_masked:
                kinds_found.append(masked_errors(target, kinds, true, guess))
            if memory is not None:
                kinds_found.append(memory)
            if self.repair is not None:
                kinds_found.append(target.on_map(self.repair(true, guess)))
            if self.labelled is not None:
                kinds_found.append(self.labelled.joined(target.on_map(self.labelled(true, guess))))
            repeats.append(torch.cat(kinds_found, dim=1))  # (B, E, L)
        return Evidence(torch.stack(repeats, dim=1), self.names)

    @torch.inference_mode()
    def altered_share(
        self, canvas: torch.Tensor, evidence: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """Say how likely each pixel of a canvas (3, S, S) is altered: (S, S) in [0, 1], on the CPU.

        `evidence` (E, L) is the mean over repeats; what the labelled head says is not looked at.
        Only around `cells` (rows, cols) bool, which are some, is anything looked at; elsewhere it
        is 0. One canvas at a time, since sums differ by the size of a batch. Wants a detail head.
        """
        assert self.detail is not None
        device, grid = self.target.mean.device, self.target.map_grid
        rows, columns = (_around(cells.any(dim=axis)) for axis in (1, 0))
        ys, xs = (slice(s.start * grid.patch, s.stop * grid.patch) for s in (rows, columns))
        unlabelled = evidence[: len(self.detail.mean)].reshape(1, -1, grid.rows, grid.cols)
        by_cell = unlabelled[:, :, rows, columns]
        logits = self.detail(canvas[None, :, ys, xs].to(device), by_cell.to(device))
        share = torch.zeros(canvas.shape[1:])
        share[ys, xs] = logits[0].sigmoid().nan_to_num(0.0).cpu()
        return share

    @property
    def has_masked(self) -> bool:
        """Whether errors of masked prediction are evidence by themselves."""
        return "masked" in self.config.scoring.families

    @property
    def needs_predictions(self) -> bool:
        """Whether any evidence rests on predictions; distances to the memory do not."""
        return self.has_masked or self.repair is not None or self.labelled is not None

    @property
    def names(self) -> tuple[str, ...]:
        """What each kind of evidence is called, in order."""
        masked = masked_names(self.target, self.config.scoring.errors) if self.has_masked else ()
        memory = () if self.memory is None else self.memory.names
        repair = () if self.repair is None else self.repair.names
        labelled = () if self.labelled is None else self.labelled.names
        return masked + memory + repair + labelled


def _around(suspicious: torch.Tensor) -> slice:
    """Span of cells (n,) bool, with the margin that the detail head looks at."""
    places = suspicious.nonzero()
    first, last = int(places.min()), int(places.max())
    return slice(max(0, first - _MARGIN), min(len(suspicious), last + 1 + _MARGIN))
