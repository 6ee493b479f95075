"""The scoring path as ONNX: canvases and mask indices in, raw evidence out, run by ONNX Runtime.

The graph holds features, encoder, decoder and all three kinds of evidence for one image; masks are its
inputs, drawn outside from the image's content as everywhere.
"""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

from anomaly.errors import ExportFailed
from anomaly.masking import split_indices
from anomaly.model import AnomalyModel
from anomaly.scoring import PatchErrors, image_masks
from anomaly.windows import merge


class ScoringPath(nn.Module):
    """One canvas and its mask indices to evidence, without a loop over data.

    Inputs: pixels (1, 3, S, S) in [0, 1]; visible (W, R, G, K) and hidden (W, R, G, Q) int64 places
    within each window. Output: (1, R, E, L), as `AnomalyModel.forward` gives.
    """

    def __init__(self, model: AnomalyModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("places", model.places, persistent=False)
        self.places: torch.Tensor

    def forward(
        self, pixels: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Score one canvas."""
        windows, repeats, parts, queries = hidden.shape
        tokens = self.model.target(pixels)  # (1, L, C)
        own = tokens[0][self.places]  # (W, l, C)
        length, channels = own.shape[1:]
        rows = own[:, None, None].expand(-1, repeats, parts, -1, -1).flatten(0, 2)
        index = hidden.reshape(-1, queries)
        predicted = self.model.mae(rows, visible.flatten(0, 2), index)  # (W·R·G, Q, C)
        shape = (windows * repeats * parts, length)
        total = torch.zeros(*shape, channels).scatter(
            1, index.unsqueeze(-1).expand(-1, -1, channels), predicted
        )
        times = torch.zeros(shape).scatter(1, index, torch.ones_like(index, dtype=torch.float32))
        total = total.view(windows, repeats, parts, length, channels).sum(dim=2)
        times = times.view(windows, repeats, parts, length).sum(dim=2).unsqueeze(-1)
        each = (total / times).transpose(0, 1)  # (R, W, l, C)
        whole = merge(each, self.places, tokens.shape[1])  # (R, L, C)
        return self.model.evidence(tokens, whole.unsqueeze(0)).error


def export_onnx(model: AnomalyModel) -> bytes:
    """Return the scoring path of a model on the CPU as an ONNX file.

    Raises `ExportFailed` where torch cannot express the model as a graph.
    """
    scoring = ScoringPath(model).eval()
    canvas = model.config.preprocess.canvas
    example = (torch.zeros(1, 3, canvas, canvas), *mask_indices(model, 0))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals, and logs them
        for name in ("onnx_ir", "onnxscript"):
            logging.getLogger(name).setLevel(logging.ERROR)
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                scoring,
                example,
                path,
                input_names=["pixels", "visible", "hidden"],
                output_names=["error"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportFailed(f"this model cannot be exported: {error}") from error
        return path.read_bytes()


def mask_indices(model: AnomalyModel, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image's visible (W, R, G, K) and hidden (W, R, G, Q) places."""
    masking = model.config.scoring.masking
    masks = image_masks([seed], len(model.places), model.window.length, masking)[0]
    visible, hidden = split_indices(masks.flatten(0, 2))
    return visible.view(*masks.shape[:3], -1), hidden.view(*masks.shape[:3], -1)


class OnnxModel:
    """Stands in for `AnomalyModel` in a detector: the same call, computed by ONNX Runtime on the CPU."""

    def __init__(self, model: AnomalyModel, graph: bytes) -> None:
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session: Any = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._model = model

    def __call__(self, pixels: torch.Tensor, seeds: Sequence[int]) -> PatchErrors:
        """Raw evidence on (B, 3, S, S) canvases; image i is masked by seed i."""
        found = []
        for one, seed in zip(pixels, seeds, strict=True):
            visible, hidden = mask_indices(self._model, seed)
            feeds = {
                "pixels": one.unsqueeze(0).numpy(),
                "visible": visible.numpy(),
                "hidden": hidden.numpy(),
            }
            found.append(torch.from_numpy(self._session.run(["error"], feeds)[0]))
        return PatchErrors(torch.cat(found), self._model.names)
