"""Golden scores: what a stored model must give for a few generated canvases, on any machine.

The canvases are patterns made here: no customer image leaves with the model.
"""

import torch

from anomaly.calibration import Calibration
from anomaly.detector import Detector, detection_of
from anomaly.errors import ModelCorrupt
from anomaly.preprocess import content_seed
from anomaly.scoring import Evidence
from anomaly.types import Placement

_TOLERANCE = 1e-3  # relative; another CPU or a GPU sums in another order


def golden_tensors(detector: Detector) -> dict[str, torch.Tensor]:
    """Make `canvases`, (3, 3, S, S) uint8, and the `scores` that the detector gives them, (3,)."""
    side = detector.model.config.preprocess.canvas
    generator = torch.Generator().manual_seed(20)
    ramp = torch.linspace(0, 1, side).expand(3, side, side)
    noise = torch.rand(3, side, side, generator=generator)
    squares = ((torch.arange(side) // 16).view(-1, 1) + torch.arange(side) // 16) % 2
    canvases = torch.stack([ramp, 0.5 * ramp + 0.3 * noise, squares.expand(3, -1, -1) * 0.8])
    canvases = (canvases * 255).round().to(torch.uint8)
    errors, place = _evidence(detector, canvases)
    scores = _scores(detector, detector.calibration, errors, place)
    return {"canvases": canvases, "scores": scores}


def check_golden_scores(detector: Detector, golden: dict[str, torch.Tensor]) -> None:
    """Raise `ModelCorrupt` unless the stored canvases give their stored scores on this device.

    Cameras' own calibrations have no stored scores; theirs must be finite (`ScoreNotFinite`).
    """
    errors, place = _evidence(detector, golden["canvases"])
    scores, golden_scores = _scores(detector, detector.calibration, errors, place), golden["scores"]
    allowed = _TOLERANCE * (1 + golden_scores.abs())
    if not bool(((scores - golden_scores).abs() <= allowed).all()):
        raise ModelCorrupt(
            f"the model does not give its golden scores: wanted {golden_scores.tolist()}, found "
            f"{scores.tolist()}; the libraries differ too much or the files were changed"
        )
    for calibration in detector.cameras.values():
        _scores(detector, calibration, errors, place)


def _evidence(detector: Detector, canvases: torch.Tensor) -> tuple[Evidence, Placement]:
    """Evidence on uint8 canvases as an inspection gathers it, and how each lies: whole."""
    side, pixels = canvases.shape[-1], canvases.float() / 255
    errors = detector.network(pixels, [content_seed(canvas) for canvas in pixels])
    return errors, Placement.filling(side)


def _scores(
    detector: Detector, calibration: Calibration, errors: Evidence, place: Placement
) -> torch.Tensor:
    """Score evidence by one calibration, (B,); raises `ScoreNotFinite`."""
    grid = detector.model.target.map_grid
    detections = [
        detection_of(errors[i : i + 1], calibration, place, grid) for i in range(len(errors.values))
    ]
    return torch.tensor([detection.pred_score for detection in detections])
