"""The scoring path of one image as ONNX, run by ONNX Runtime."""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors
from torch import nn

from anomaly.device import Cores
from anomaly.errors import ExportFailed
from anomaly.model import AnomalyModel
from anomaly.scoring import Evidence
from anomaly.scoring_path import ScoringPath, mask_indices

# What ONNX Runtime raises for a graph that it cannot read or run.
GRAPH_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
)


class _OneImage(nn.Module):
    """The graph's form: one canvas (1, 3, S, S) and its masks without a batch, (W, R, G, ·)."""

    def __init__(self, path: ScoringPath) -> None:
        super().__init__()
        self.path = path

    def forward(
        self, pixels: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        model = self.path.model
        tokens = model.target(pixels)
        predicted = self.path.predict(tokens, visible.unsqueeze(0), hidden.unsqueeze(0))
        values = model.evidence(tokens, predicted).values
        return (values, tokens, predicted) if model.needs_predictions else (values,)


def export_onnx(model: AnomalyModel) -> bytes:
    """Return the scoring path of a model on the CPU as an ONNX file.

    Beside the evidence, `error`, it gives `tokens` and `predicted`, where it may be cut, unless no
    evidence rests on predictions: then it makes none.

    Raises `ExportFailed` where torch cannot express the model as a graph.
    """
    scoring = _OneImage(ScoringPath(model)).eval()
    canvas = model.config.preprocess.canvas
    visible, hidden = mask_indices(model, [0])
    example = (torch.zeros(1, 3, canvas, canvas), visible[0], hidden[0])
    between = ["tokens", "predicted"] if model.needs_predictions else []
    return exported(scoring, example, ["pixels", "visible", "hidden"], ["error", *between])


def exported(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Return a module in evaluation mode as an ONNX file, traced with an example of its inputs.

    Raises `ExportFailed` where torch cannot express it as a graph.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals, and logs them
        for name in ("onnx_ir", "onnxscript"):
            logging.getLogger(name).setLevel(logging.ERROR)
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                module,
                example,
                path,
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportFailed(f"this model cannot be exported: {error}") from error
        return path.read_bytes()


class OnnxModel:
    """Stands in for `AnomalyModel` in a detector: the same call, run by ONNX Runtime on the CPU.

    With `cores`, an image has all threads while its batch is alone and its lane's threads
    otherwise: a lone image is done sooner, and images side by side do not wait for each other's
    threads.
    """

    def __init__(self, model: AnomalyModel, graph: bytes, cores: Cores | None = None) -> None:
        self._cores = cores or Cores(1, torch.get_num_threads())
        lanes, threads = self._cores.lanes, self._cores.threads
        self._beside = _session(graph, threads, spins=lanes == 1)
        self._alone = self._beside if lanes == 1 else _session(graph, lanes * threads, spins=True)
        self._model = model
        # A graph of before has the evidence alone.
        names = {output.name for output in self._beside.get_outputs()}
        self._outputs = [name for name in ("error", "tokens", "predicted") if name in names]
        self.engine = f"ONNX Runtime {onnxruntime.__version__}, float32"

    def __call__(self, pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        """Raw evidence on (B, 3, S, S) canvases; image i is masked by seed i."""
        values, differences = [], []
        for image, seed in zip(pixels, seeds, strict=True):
            visible, hidden = mask_indices(self._model, [seed])
            feeds = {
                "pixels": image.unsqueeze(0).numpy(),
                "visible": visible[0].numpy(),
                "hidden": hidden[0].numpy(),
            }
            session = self._beside if self._cores.are_shared else self._alone
            error, *between = map(torch.from_numpy, session.run(self._outputs, feeds))
            values.append(error)
            if between:
                differences.append(self._model.differences(*between))
        joined = torch.cat(differences) if differences else None
        return Evidence(torch.cat(values), self._model.names, joined)


def _session(graph: bytes, threads: int, *, spins: bool) -> Any:
    """Load a graph; within an image its threads wait for work at full speed, or sleep at once.

    After an image all leave their core: whoever prepares the next one would wait for it
    (docs/LOG.md).
    """
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
