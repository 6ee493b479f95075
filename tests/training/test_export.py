from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.detector import Detector
from anomaly.device import share_cores
from anomaly.errors import ExportFailed, ModelCorrupt
from anomaly.model import AnomalyModel
from anomaly.onnx_model import OnnxModel
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from tests.conftest import TINY, normal_pixels, planted
from training import export as export_module
from training.config import load_recipe
from training.export import export_model
from training.pipeline import export_folder, with_graph


@pytest.fixture
def exported_before(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tiny model's graph as it was exported: that takes ten seconds each time."""
    monkeypatch.setattr(export_module, "export_onnx", lambda model: exported.graph)


def test_the_graph_gives_the_model_s_scores(tiny_bundle: Bundle, exported: Bundle) -> None:
    images = [RgbImage(normal_pixels(7)), RgbImage(planted(normal_pixels(8), 60, 40, 10))]
    assert tiny_bundle.calibration is not None
    by_torch = Detector(tiny_bundle.model, tiny_bundle.calibration).detect(images)
    graph = detector_of(exported, precision="fp32")
    assert isinstance(graph.network, OnnxModel)
    inputs = graph.network._alone.get_inputs()
    assert [len(one.shape) for one in inputs] == [
        4,
        4,
        4,
    ]  # models on disk have graphs of this form
    for wanted, found in zip(by_torch, graph.detect(images), strict=True):
        assert found.pred_score == pytest.approx(wanted.pred_score, rel=1e-4)
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, atol=1e-3)


def test_the_graph_is_loaded_checked_and_held_to_the_golden_scores(
    tiny_bundle: Bundle, exported: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    save_bundle(exported, folder, "v2")
    assert load_bundle(folder).graph == exported.graph
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        load_bundle(folder)


@pytest.mark.usefixtures("exported_before")
def test_a_graph_that_cannot_be_run_is_a_damaged_model(exported: Bundle, tmp_path: Path) -> None:
    for graph in (b"not a graph", b""):
        save_bundle(replace(exported, graph=graph), tmp_path / "tiny", "v3")  # digests fit
        with pytest.raises(ModelCorrupt, match="maskline export"):
            load_bundle(tmp_path / "tiny")
    export_folder(tmp_path / "tiny")
    repaired = detector_of(load_bundle(tmp_path / "tiny"), precision="fp32")
    assert isinstance(repaired.network, OnnxModel)


@pytest.mark.usefixtures("exported_before")
def test_torch_and_the_graph_are_timed_with_the_threads_of_a_service_s_batch(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def timed(network: export_module.Network, pixels: torch.Tensor) -> float:
        threads = (
            network._beside.get_session_options().intra_op_num_threads
            if isinstance(network, OnnxModel)
            else torch.get_num_threads()
        )
        seen.append((type(network).__name__, threads))
        return 1.0

    monkeypatch.setattr(export_module, "_ms", timed)
    monkeypatch.setattr(export_module, "pays_here", lambda: False)
    monkeypatch.setattr(export_module, "usable_cores", lambda: 4)
    torch.set_num_threads(4)
    try:
        export_model(tiny_bundle.model)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {("AnomalyModel", 2), ("OnnxModel", 2)}


def test_windows_are_exported_as_well() -> None:
    tiny = load_recipe("default", [*TINY, "model.mae.window=4"]).model
    model = AnomalyModel.fresh(tiny).eval()
    assert len(model.window_indices) == 4
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graph = OnnxModel(model, export_model(model).graph)
    torch.testing.assert_close(
        graph(pixels, [5]).values, model(pixels, [5]).values, atol=1e-3, rtol=1e-3
    )


def test_a_graph_gives_the_same_evidence_alone_and_beside_others(
    tiny_bundle: Bundle, exported: Bundle
) -> None:
    assert exported.graph is not None
    graph, cores = exported.graph, share_cores("cpu", 2)
    shared, plain = OnnxModel(tiny_bundle.model, graph, cores), OnnxModel(tiny_bundle.model, graph)
    assert shared._alone is not shared._beside
    assert plain._alone is plain._beside
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with cores.batch():
        alone = shared(pixels, [5]).values
        with cores.batch():
            beside = shared(pixels, [5]).values
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(beside, plain(pixels, [5]).values, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("exported_before")
def test_a_graph_that_differs_is_refused(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_TOLERANCE", -1.0)
    with pytest.raises(ExportFailed, match="differs"):
        export_model(tiny_bundle.model)


def test_no_graph_where_none_is_wanted(exported: Bundle) -> None:
    assert with_graph(exported, "never").graph is None
