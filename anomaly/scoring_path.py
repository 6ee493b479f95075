"""The scoring path without a loop over data: what is exported to ONNX and captured as a CUDA graph.

It holds features, encoder, decoder and all three kinds of evidence; masks are inputs, drawn outside
from the image's content as everywhere.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from anomaly.masking import split_indices
from anomaly.model import AnomalyModel
from anomaly.scoring import image_masks, predict_hidden
from anomaly.windows import merge


class ScoringPath(nn.Module):
    """Canvases and their mask indices to evidence.

    Inputs: pixels (B, 3, S, S) in [0, 1]; visible (B, W, R, G, K) and hidden (B, W, R, G, Q) int64
    places within each window. Output: values (B, R, E, L) and differences (B, L, C), as
    `AnomalyModel.inspect` gives. With a `precision` other than float32 the autoencoder alone
    computes in it: the backbone's rounding would move scores (docs/LOG.md).
    """

    def __init__(self, model: AnomalyModel, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        self.register_buffer("window_indices", model.window_indices, persistent=False)
        self.window_indices: torch.Tensor

    def forward(
        self, pixels: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score canvases; what is between the steps is what a graph is cut at."""
        tokens = self.model.target(pixels)  # (B, L, C)
        predicted = self.predict(tokens, visible, hidden)
        evidence = self.model.evidence(tokens, predicted)
        return evidence.values, self.model.differences(tokens, predicted)

    def predict(
        self, tokens: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Predict tokens (B, L, C) while hidden, (B, R, L, C)."""
        batch, _, repeats, _, _ = hidden.shape
        windows = tokens[:, self.window_indices]  # (B, W, l, C)
        rows = windows[:, :, None].expand(-1, -1, repeats, -1, -1).flatten(0, 2)  # (B·W·R, l, C)
        with self._autocast(tokens.device):
            flat = predict_hidden(self.model.mae, rows, visible.flatten(0, 2), hidden.flatten(0, 2))
        by_window = flat.view(batch, -1, repeats, *flat.shape[1:]).transpose(1, 2)
        predicted = merge(by_window.flatten(0, 1), self.window_indices, tokens.shape[1])
        return predicted.view(batch, repeats, *predicted.shape[1:])

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self._precision == torch.float32:
            return contextlib.nullcontext()
        # Without the cache of cast weights: a captured graph must not hold what the cache frees.
        return torch.autocast(device.type, self._precision, cache_enabled=False)


def mask_indices(model: AnomalyModel, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images' visible (B, W, R, G, K) and hidden (B, W, R, G, Q) places."""
    masking = model.config.scoring.masking
    masks = image_masks(seeds, len(model.window_indices), model.window.length, masking)
    visible, hidden = split_indices(masks.flatten(0, 3))
    return visible.view(*masks.shape[:4], -1), hidden.view(*masks.shape[:4], -1)
