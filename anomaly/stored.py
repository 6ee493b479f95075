"""A calibration to values for a manifest and tensors for a file, and back; its digest."""

import hashlib
import json
from typing import Any

import torch
from safetensors.torch import save

from anomaly.calibration import Calibration, Candidate, Rates, Usual
from anomaly.config import from_dict, to_dict
from anomaly.conformal import Conformal
from anomaly.encoding import Encodings
from anomaly.normalise import NORMALISERS, Normaliser
from anomaly.reduction import Reduction
from anomaly.roi import Roi


def digest_of(calibration: Calibration) -> str:
    """SHA-256 of all that a calibration decides by: two with the same digest judge alike."""
    values = json.dumps(values_of(calibration), sort_keys=True).encode()
    return hashlib.sha256(values + save(tensors_of(calibration))).hexdigest()


def values_of(calibration: Calibration) -> dict[str, Any]:
    """What a person would read of a calibration; with `tensors_of`, all of it."""
    roi, rates = calibration.roi, calibration.rates
    # Left out where unknown: calibrations of before keep their digests.
    encodings = {} if calibration.encodings is None else {"inputs": to_dict(calibration.encodings)}
    return {
        "normalisers": [normaliser.kind for normaliser in calibration.normalisers],
        "weights": calibration.weights.tolist(),
        "reduction": to_dict(calibration.reduction),
        "map_smoothing": calibration.map_smoothing,
        "false_alarm_rate": calibration.false_alarm_rate,
        "warn_rate": calibration.warn_rate,
        "threshold": calibration.threshold,
        "warn_threshold": calibration.warn_threshold,
        "map_threshold": calibration.map_threshold,
        "images": len(calibration.images.scores),
        "groups": calibration.images.groups,
        "smallest_false_alarm_rate": calibration.images.smallest_rate,
        "rates": None if rates is None else to_dict(rates),
        "statistics": None if calibration.usual is None else calibration.usual.names,
        "roi_share": None if roi is None else roi.share,
        "candidates": [to_dict(candidate) for candidate in calibration.candidates],
        **encodings,
    }


def tensors_of(calibration: Calibration) -> dict[str, torch.Tensor]:
    """Normalisers, scores of the calibration images and region, by name."""
    stored = {
        f"{normaliser.kind}.{name}": tensor.contiguous()
        for normaliser in calibration.normalisers
        for name, tensor in normaliser.tensors().items()
    }
    for name in ("images", "peaks"):
        conformal: Conformal = getattr(calibration, name)
        stored[f"{name}.scores"] = torch.from_numpy(conformal.scores)
        stored[f"{name}.weights"] = torch.from_numpy(conformal.weights)
    if calibration.roi is not None:
        stored["roi.inside"] = torch.from_numpy(calibration.roi.inside)
    if calibration.usual is not None:
        stored["usual.values"] = torch.from_numpy(calibration.usual.values)
        stored["usual.weights"] = torch.from_numpy(calibration.usual.weights)
    return stored


def calibration_from(values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Calibration:
    """Restore a calibration. Raises `KeyError`, `TypeError` or `ConfigError` where it is damaged."""
    rates = values["rates"]
    return Calibration(
        normalisers=tuple(_normaliser(kind, tensors) for kind in values["normalisers"]),
        weights=torch.tensor(values["weights"]),
        reduction=from_dict(Reduction, values["reduction"]),
        images=_conformal(tensors, "images"),
        peaks=_conformal(tensors, "peaks"),
        false_alarm_rate=values["false_alarm_rate"],
        map_smoothing=values["map_smoothing"],
        candidates=tuple(from_dict(Candidate, one) for one in values["candidates"]),
        warn_rate=values["warn_rate"],
        roi=None if values["roi_share"] is None else Roi(tensors["roi.inside"].numpy()),
        rates=None if rates is None else from_dict(Rates, rates),
        usual=_usual(values["statistics"], tensors),
        encodings=from_dict(Encodings, values["inputs"]) if "inputs" in values else None,
    )


def _usual(names: list[str] | None, tensors: dict[str, torch.Tensor]) -> Usual | None:
    if names is None:
        return None
    values, weights = tensors["usual.values"].numpy(), tensors["usual.weights"].numpy()
    return Usual(tuple(names), values, weights)


def _normaliser(kind: str, tensors: dict[str, torch.Tensor]) -> Normaliser:
    prefix = f"{kind}."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return NORMALISERS[kind](**own)


def _conformal(tensors: dict[str, torch.Tensor], name: str) -> Conformal:
    return Conformal(tensors[f"{name}.scores"].numpy(), tensors[f"{name}.weights"].numpy())
