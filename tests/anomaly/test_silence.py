"""No library sends usage data."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

_OPTIONS = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def test_no_identifier_is_left_on_the_disk(tmp_path: Path) -> None:
    # ONNX Runtime writes one and a queue of events as soon as it is imported.
    usual = {
        key: value
        for key, value in os.environ.items()
        if key not in (*_OPTIONS, "CI", "GITHUB_ACTIONS")
    }
    home = usual | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = "import anomaly.onnx_model, onnxruntime; onnxruntime.SessionOptions()"
    subprocess.run([sys.executable, "-c", command], env=home, check=True)

    left = [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)]

    assert left == []


def test_the_tracking_library_says_that_it_is_told_to_be_silent() -> None:
    command = (
        "import training.log\nfrom mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY as "
        "off\nraise SystemExit(not off.get())"
    )
    usual = {key: value for key, value in os.environ.items() if key not in _OPTIONS}

    assert subprocess.run([sys.executable, "-c", command], env=usual, check=False).returncode == 0


def test_the_telemetry_of_the_other_engine_is_not_even_imported() -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not to be had for this platform")
    command = (
        "from anomaly.openvino_model import _openvino\n_openvino()\n"
        "import sys\nfrom openvino.tools.ovc.telemetry_utils import tm\n"
        "raise SystemExit(not tm.__name__.endswith('telemetry_stub') "
        "or sys.modules['openvino_telemetry'] is not None)"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
