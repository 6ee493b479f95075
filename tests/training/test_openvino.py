import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import pytest
import torch

from anomaly import runtime
from anomaly.bundle import Bundle, save_bundle
from anomaly.detector import Detector
from anomaly.device import share_cores
from anomaly.model import AnomalyModel
from anomaly.onnx_model import OnnxModel
from anomaly.openvino_model import OpenVinoModel, pays_here
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted
from training import export as export_module
from training.config import TrainConfig
from training.export import export_model

pytest.importorskip("openvino")

_LOADED_DROPPED_AND_ENDED = """
import faulthandler, pathlib, signal, subprocess, sys
from anomaly.bundle import load_bundle
from anomaly.openvino_model import OpenVinoModel

faulthandler.enable()  # which gives this thread its first stack for signals
bundle = load_bundle(pathlib.Path(sys.argv[1]))
served = [OpenVinoModel(bundle.model, bundle.graph) for _ in range(2)]
del served[0], served[0]
signals = []
signal.signal(signal.SIGCHLD, lambda *_: signals.append("a child has ended"))
subprocess.run(["true"], check=True)
print(*signals)
"""


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this processor has units for bfloat16; OpenVINO knows the truth."""
    monkeypatch.setattr(runtime, "pays_here", lambda: True)


def canvases(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("units")
def test_a_part_has_the_score_that_its_calibration_knows(
    tiny_bundle: Bundle, exported: Bundle
) -> None:
    images = [RgbImage(normal_pixels(7)), RgbImage(planted(normal_pixels(8), 60, 40, 10))]
    assert tiny_bundle.calibration is not None
    by_torch = Detector(tiny_bundle.model, tiny_bundle.calibration).detect(images)
    detector = detector_of(exported)
    assert isinstance(detector.network, OpenVinoModel)
    assert "OpenVINO" in detector.engine
    for exact, rounded in zip(by_torch, detector.detect(images), strict=True):
        assert rounded.pred_score == pytest.approx(exact.pred_score, rel=1e-2, abs=1e-2)
        assert rounded.is_anomalous == exact.is_anomalous


def test_only_the_autoencoder_is_rounded(exported: Bundle) -> None:
    assert exported.graph is not None
    model, pixels = exported.model, canvases(2)
    values = OpenVinoModel(model, exported.graph)(pixels, [1, 2]).values
    wanted = model(pixels, [1, 2]).values
    of_memory = [i for i, name in enumerate(model.names) if name.startswith("memory")]
    assert of_memory
    torch.testing.assert_close(
        values[:, :, of_memory], wanted[:, :, of_memory], atol=1e-4, rtol=1e-4
    )
    spread = wanted.std(dim=(0, 1, 3), keepdim=True)
    assert float(((values - wanted) / spread).abs().max()) < 0.3


def test_evidence_is_the_same_alone_beside_others_and_in_any_batch(exported: Bundle) -> None:
    assert exported.graph is not None
    cores, pixels, seeds = share_cores("cpu", 2), canvases(4), [1, 2, 3, 4]
    shared = OpenVinoModel(exported.model, exported.graph, cores)
    assert shared._alone is not shared._beside
    alone = shared(pixels, seeds).values
    answers: dict[int, torch.Tensor] = {}

    def inspect(number: int) -> None:
        with cores.batch():
            part = slice(number, number + 1)
            for _ in range(5):
                answers[number] = shared(pixels[part], seeds[part]).values

    threads = [threading.Thread(target=inspect, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([answers[number] for number in range(4)]), alone)


@pytest.mark.usefixtures("units")
def test_float32_serves_where_the_golden_scores_do_not_come_out(
    exported: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    golden = dict(exported.golden) | {"scores": exported.golden["scores"] + 1}
    detector = detector_of(replace(exported, golden=golden))
    assert isinstance(detector.network, OnnxModel)
    assert "ONNX Runtime" in detector.engine
    assert "golden scores" in caplog.text


@pytest.mark.usefixtures("units")
def test_float32_serves_where_the_graph_cannot_be_cut(
    exported: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert exported.graph is not None
    graph = onnx.load_from_string(exported.graph)
    del graph.graph.output[1:]  # as releases before 0.6 exported it
    detector = detector_of(replace(exported, graph=graph.SerializeToString()))
    assert isinstance(detector.network, OnnxModel)
    assert "maskline export" in caplog.text


@pytest.mark.usefixtures("units")
def test_float32_serves_where_it_is_wished_or_nothing_was_checked(exported: Bundle) -> None:
    assert isinstance(detector_of(exported, precision="fp32").network, OnnxModel)
    assert exported.calibration is not None
    recalibrated = exported.calibrated(exported.calibration)
    assert isinstance(detector_of(recalibrated).network, OnnxModel)


def test_a_processor_without_the_units_keeps_float32(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert not pays_here()
    assert isinstance(detector_of(exported).network, OnnxModel)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_gpu_s_graphs_are_captured_in_the_precision_that_is_wished(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch, precision: Literal["auto", "fp32"]
) -> None:
    class Captured(Exception):
        pass

    def capture(*arguments: object) -> None:
        raise Captured(*arguments)

    monkeypatch.setattr(runtime, "StagedModel", capture)
    with pytest.raises(Captured) as captured:
        detector_of(exported, torch.device("cuda"), staged=2, precision=precision)
    dtype = {"auto": torch.bfloat16, "fp32": torch.float32}[precision]
    assert captured.value.args == (exported.model, torch.device("cuda"), 2, dtype)


def test_a_signal_finds_its_stack_after_models_were_replaced(
    exported: Bundle, tmp_path: Path
) -> None:
    # Each core that compiled left the process with the stack of one that was gone.
    save_bundle(exported, tmp_path / "model", "v1")
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED_DROPPED_AND_ENDED, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "a child has ended\n"


def test_an_export_times_it_where_it_could_serve(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "pays_here", lambda: True)
    assert exported.graph is not None
    graph = exported.graph
    monkeypatch.setattr(export_module, "export_onnx", lambda model: graph)
    milliseconds = export_model(exported.model).milliseconds
    assert len(milliseconds) == 3
    assert min(milliseconds.values()) > 0


def test_a_memory_alone_is_exported_without_predictions(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "pays_here", lambda: True)
    scoring = replace(tiny_config.model.scoring, families=("memory",))
    model = AnomalyModel.fresh(replace(tiny_config.model, scoring=scoring))
    exported = export_model(model)
    assert set(exported.milliseconds) == {"torch", "ONNX Runtime"}
    graph = onnx.load_from_string(exported.graph).graph
    assert [output.name for output in graph.output] == ["error"]
    assert not any("mae" in weight.name for weight in graph.initializer)
