"""A stored model made ready to inspect on one device."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from anomaly.bundle import Bundle
from anomaly.cuda_graphs import StagedModel
from anomaly.detector import Detector
from anomaly.device import Cores, choose_device
from anomaly.errors import AnomalyError, ModelUncalibrated
from anomaly.golden import check_golden_scores
from anomaly.onnx_model import OnnxModel
from anomaly.openvino_model import OpenVinoModel, pays_here
from anomaly.scoring import Evidence

_log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32"]


def detector_of(
    bundle: Bundle,
    device: str | torch.device = "cpu",
    *,
    staged: int = 0,
    cores: Cores | None = None,
    precision: Precision = "auto",
) -> Detector:
    """Return a detector on `device`; raises `ModelUncalibrated` without a calibration.

    On a GPU, batches of up to `staged` images are captured as graphs (`StagedModel`); 0 captures
    none. `cores` says how batches on a CPU share it; without it all of torch's threads serve each.
    With `precision="auto"` captured graphs compute the autoencoder in bfloat16, and so does a CPU
    with units for it where OpenVINO is installed and the golden scores come out; with `fp32`
    nothing does.
    """
    if bundle.calibration is None:
        raise ModelUncalibrated(
            f"model {bundle.name!r} has no calibration, so its scores have no threshold; run "
            "'maskline calibrate MODEL NORMALS' with held-out normal images"
        )
    target = choose_device(device) if isinstance(device, str) else device
    network: Callable[[torch.Tensor, Sequence[int]], Evidence] | None = None
    if target.type == "cuda" and staged:
        halves = torch.bfloat16 if precision == "auto" else torch.float32
        network = StagedModel(bundle.model, target, staged, halves)
    elif target.type == "cpu" and bundle.graph is not None:
        in_halves = _in_bfloat16(bundle, bundle.graph, cores) if precision == "auto" else None
        network = in_halves or OnnxModel(bundle.model, bundle.graph, cores)
    return Detector(
        bundle.model, bundle.calibration, target, network=network, cameras=bundle.cameras
    )


def _in_bfloat16(bundle: Bundle, graph: bytes, cores: Cores | None) -> OpenVinoModel | None:
    """Return the graph with its autoencoder in bfloat16, or None where that is not to be trusted.

    What judges by a calibration must give its golden scores on this very processor.
    """
    if not bundle.golden or bundle.calibration is None:
        return None
    if not bundle.model.needs_predictions or not pays_here():
        return None
    try:
        network = OpenVinoModel(bundle.model, graph, cores)
        detector = Detector(
            bundle.model, bundle.calibration, network=network, cameras=bundle.cameras
        )
        check_golden_scores(detector, dict(bundle.golden))
    except (AnomalyError, RuntimeError) as error:
        _log.warning(
            "model %s is served in float32, not by OpenVINO in bfloat16 (%s); 'maskline export' "
            "makes its graph anew",
            bundle.name,
            error,
        )
        return None
    return network
