"""What this machine has, what would be used, what is missing."""

import platform
import shutil
import socket
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anomaly.bundle import load_bundle, model_folders
from anomaly.device import choose_device, has_matrix_units, usable_cores
from anomaly.errors import AnomalyError
from anomaly.openvino_model import pays_here
from anomaly.runtime import detector_of
from anomaly.targets import TargetConfig, load_backbone
from training.meter import matrix_rate

_PACKAGES = ("torch", "timm", "opencv-python-headless", "simplejpeg", "fastapi", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    name: str
    text: str
    is_problem: bool = False

    @property
    def mark(self) -> str:
        """A mark for a terminal."""
        return "✗" if self.is_problem else "✓"

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def examine(models: Path | None, port: int) -> list[Finding]:
    """Look at the machine, the libraries, the bundled weights, the port and the models."""
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    findings = [
        Finding("maskline", f"{version('maskline')} on Python {platform.python_version()}"),
        Finding("libraries", ", ".join(f"{name} {version(name)}" for name in _PACKAGES)),
        _processor(),
        _engine(),
        _device(),
        Finding("disk", f"{free_gb:.1f} GB free here", is_problem=free_gb < 1),
        _weights(),
        _port(port),
    ]
    if models is not None:
        findings += _models(models)
    return findings


def _processor() -> Finding:
    text = f"{usable_cores()} cores, torch uses {torch.get_num_threads()}"
    single = matrix_rate(torch.device("cpu"), torch.float32) / 1e9
    if not has_matrix_units():
        return Finding("processor", f"{text}; trains in float32 ({single:.0f} GFLOP/s)")
    half = matrix_rate(torch.device("cpu"), torch.bfloat16) / 1e9
    rates = f"{half:.0f} GFLOP/s, float32 {single:.0f}"
    return Finding("processor", f"{text}; trains in bfloat16, for which it has units ({rates})")


def _engine() -> Finding:
    """What serves a model with a graph on this machine's CPU."""
    if pays_here():
        return Finding("engine", "OpenVINO serves on the CPU, the autoencoder in bfloat16")
    text = "ONNX Runtime serves on the CPU, in float32"
    if has_matrix_units():
        text += "; with OpenVINO it would take less time: pip install 'maskline[openvino]'"
    return Finding("engine", text)


def _device() -> Finding:
    device = choose_device("auto")
    if device.type == "cpu":
        return Finding("device", "cpu would be used: torch sees no CUDA GPU")
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    return Finding("device", f"{torch.cuda.get_device_name(device)} with {memory:.0f} GB, {device}")


def _weights() -> Finding:
    try:
        load_backbone(TargetConfig())
    except (AnomalyError, ImportError, OSError, StopIteration) as error:
        text = f"the bundled weights cannot be loaded ({error}); run 'make install' again"
        return Finding("backbone", text, is_problem=True)
    return Finding("backbone", "EfficientNet-Lite0, bundled; no network is needed")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            text = f"{port} is in use; stop that program or serve with --port"
            return Finding("port", text, is_problem=True)
    return Finding("port", f"{port} is free")


def _models(folder: Path) -> list[Finding]:
    paths = model_folders(folder)
    if not paths:
        return [Finding("models", f"none in {folder}; run 'maskline train'", is_problem=True)]
    return [_model(path) for path in paths]


def _model(path: Path) -> Finding:
    try:
        bundle = load_bundle(path)
        detector_of(bundle)
    except AnomalyError as error:
        return Finding("model", f"{path}: [{error.code}] {error}", is_problem=True)
    return Finding("model", f"{path}: version {bundle.version}, golden scores reproduced")
