"""Tensors of a model folder to a model; nothing that the folder says is trusted.

The configured model is first built without memory and compared with the stored weights: so a folder
never costs more than a small multiple of its files. Every number in it must be finite.
"""

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from anomaly.calibration import Calibration
from anomaly.calibration_file import calibration_from, check_fits, require
from anomaly.config import from_dict
from anomaly.errors import AnomalyError, ModelCorrupt, ModelError
from anomaly.example_file import examples_of_tensors
from anomaly.kinds import Examples
from anomaly.model import AnomalyModel, ModelConfig

_GOLDEN_AT_MOST = 16
# What torch, timm and ONNX Runtime raise when they are asked for what makes no sense.
_ODD = (
    AnomalyError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def corrupt_unless_sound(folder: Path) -> Iterator[None]:
    """Turn any error that a folder's contents cause in a library into a one-line `ModelCorrupt`."""
    try:
        yield
    except ModelError:
        raise
    except _ODD as error:
        reason = textwrap.shorten(
            str(error) or type(error).__name__, 200
        )  # torch lists every tensor
        raise ModelCorrupt(
            f"the model in {folder} does not fit its manifest or this version of Maskline: {reason}"
        ) from error


def read_tensors(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    """Read a safetensors file whose every number is finite; raises `ModelCorrupt`."""
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, *_ODD) as error:
        raise ModelCorrupt(f"{path} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise ModelCorrupt(
                f"{name} in {path} has values that are not finite (NaN or infinite); train or "
                "calibrate the model again"
            )
    return tensors


def model_from(values: Mapping[str, Any], weights: dict[str, torch.Tensor]) -> AnomalyModel:
    """Build the configured model from weights that fit it; raises errors of many kinds."""
    config = from_dict(ModelConfig, values)
    with torch.device("meta"):
        layout = AnomalyModel.empty(config).state_dict()
    check_layout(layout, weights)
    model = AnomalyModel.empty(config)
    model.load_state_dict(weights)
    return model.eval()


def check_layout(layout: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Raise `ConfigError` unless weights have the names, shapes and types of a layout."""
    require(layout.keys() == weights.keys(), _difference(layout.keys() ^ weights.keys()))
    for name, tensor in weights.items():
        expected = layout[name]
        fits = expected.shape == tensor.shape and expected.dtype == tensor.dtype
        require(fits, f"{name} is {_form(tensor)}, where {_form(expected)} belongs")


def calibrations_from(
    values: dict[str, Any],
    cameras: Mapping[str, dict[str, Any]],
    tensors: dict[str, torch.Tensor],
    model: AnomalyModel,
) -> tuple[Calibration, dict[str, Calibration]]:
    """Restore calibrations, also of cameras, that fit the model; raises errors of many kinds."""
    by_camera = {}
    for number, (name, camera_values) in enumerate(cameras.items()):
        prefix = f"camera{number}."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        by_camera[name] = calibration_from(camera_values, mine)
    calibration = calibration_from(values, tensors)
    for calibration_ in (calibration, *by_camera.values()):
        check_fits(calibration_, len(model.names), model.target.map_grid.length)
    return calibration, by_camera


def examples_from(tensors: dict[str, torch.Tensor] | None, model: AnomalyModel) -> Examples | None:
    """Restore labelled regions that the model can describe; raises errors of many kinds."""
    if tensors is None:
        return None
    return examples_of_tensors(tensors, sum(block.channels for block in model.target.blocks))


def check_golden_form(golden: dict[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless these are golden scores of canvases of the configured side.

    Called before a model is built: the file's own size bounds what its canvases will cost.
    """
    canvas = from_dict(ModelConfig, values).preprocess.canvas
    canvases, scores = golden["canvases"], golden["scores"]
    require(canvases.dtype == torch.uint8, "the golden canvases are no pictures")
    require(0 < len(scores) <= _GOLDEN_AT_MOST and scores.ndim == 1, "there are no golden scores")
    shape = (len(scores), 3, canvas, canvas)
    require(
        tuple(canvases.shape) == shape and scores.dtype == torch.float32,
        f"the golden canvases are {_form(canvases)}, where {shape} belongs",
    )


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.is_complex():
        return False
    if not tensor.is_floating_point():
        return True
    # float8 has no test of its own
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


def _difference(names: set[str]) -> str:
    return f"{len(names)} tensors are missing or too many, {min(names, default='')} for instance"


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
