import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from supervised.bundle import SupervisedBundle, load_supervised, save_supervised
from supervised.graph import export_graph


@pytest.mark.slow
def test_the_graph_gives_torchs_logits_and_travels_with_the_model(
    bundle: SupervisedBundle, tmp_path: Path
) -> None:
    graph = export_graph(bundle.network)
    save_supervised(dataclasses.replace(bundle, graph=graph), tmp_path / "kinds", "v1")
    read = load_supervised(tmp_path / "kinds")
    assert read.graph == graph
    session = onnxruntime.InferenceSession(read.graph, providers=["CPUExecutionProvider"])
    pixels = torch.rand(1, 3, 64, 64)
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    with torch.inference_mode():
        expected = read.network(pixels).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
