"""A stored model made ready to inspect on one device."""

import torch

from anomaly.bundle import Bundle
from anomaly.cuda_graphs import StagedModel
from anomaly.detector import Detector
from anomaly.device import Cores, choose_device
from anomaly.errors import ModelUncalibrated
from anomaly.onnx_model import OnnxModel


def detector_of(
    bundle: Bundle,
    device: str | torch.device = "cpu",
    *,
    staged: int = 0,
    cores: Cores | None = None,
) -> Detector:
    """Return a detector on `device`; raises `ModelUncalibrated` without a calibration.

    On a GPU, batches of up to `staged` images are captured as graphs (`StagedModel`); 0 captures
    none. `cores` says how batches on a CPU share it; without it all of torch's threads serve each.
    """
    if bundle.calibration is None:
        raise ModelUncalibrated(
            f"model {bundle.name!r} has no calibration, so its scores have no threshold; run "
            "'maskline calibrate MODEL NORMALS' with held-out normal images"
        )
    target = choose_device(device) if isinstance(device, str) else device
    if target.type == "cuda" and staged:
        captured = StagedModel(bundle.model, target, staged)
        return Detector(
            bundle.model, bundle.calibration, target, network=captured, cameras=bundle.cameras
        )
    if bundle.graph is None or target.type != "cpu":
        return Detector(bundle.model, bundle.calibration, target, cameras=bundle.cameras)
    network = OnnxModel(bundle.model, bundle.graph, cores)
    return Detector(
        bundle.model, bundle.calibration, target, network=network, cameras=bundle.cameras
    )
