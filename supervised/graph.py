"""A network of labels as ONNX: one canvas in, the head's raw tensors out."""

import numpy as np
import onnxruntime
import torch

from anomaly.errors import ExportFailed
from anomaly.onnx_model import GRAPH_ERRORS, exported
from supervised.network import SupervisedNetwork

_CLOSE = 1e-3  # of the largest raw output: float32 summed in another order


def export_graph(network: SupervisedNetwork) -> bytes:
    """Return the network as an ONNX file that was held to torch on a drawn canvas.

    Its input is `pixels` (1, 3, S, S) in [0, 1]; its outputs are `output0`, `output1`, … in the
    order of `network.forward`. Raises `ExportFailed` where torch cannot express the network as a
    graph, or the graph computes something else.
    """
    network = network.cpu().eval()
    canvas = network.encoder.config.preprocess.canvas
    pixels = torch.rand(1, 3, canvas, canvas, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        raw = network(pixels)
    if isinstance(raw, list):
        raise ExportFailed("a detector answers with as many boxes as it sees and has no graph")
    expected = [raw] if isinstance(raw, torch.Tensor) else list(raw)
    names = [f"output{i}" for i in range(len(expected))]
    graph = exported(network, (pixels,), ["pixels"], names)
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {"pixels": pixels.numpy()})
    except GRAPH_ERRORS as error:
        raise ExportFailed(f"ONNX Runtime cannot run the graph: {error}") from error
    for computed, tensor in zip(outputs, expected, strict=True):
        gap = float(np.abs(computed - tensor.numpy()).max())
        if not gap <= _CLOSE * max(1.0, float(tensor.abs().max())):
            raise ExportFailed(f"the graph differs from torch by {gap:.2g}; it was not kept")
    return graph
