"""A calibration to values for a manifest and tensors for a file, and back; its digest."""

import hashlib
import json
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from anomaly.calibration import (
    Calibration,
    CalibrationSettings,
    Candidate,
    Rates,
    ReferenceStatistics,
)
from anomaly.config import from_dict, to_dict
from anomaly.conformal import Conformal
from anomaly.encoding import Encodings
from anomaly.errors import ConfigError
from anomaly.image_score import Reduction
from anomaly.normalise import NORMALISERS, Normaliser
from anomaly.roi import SIDE, Roi
from anomaly.types import FloatArray

_SMOOTH = "smooth"  # the rule of thresholds; calibrations of earlier versions name none


def calibration_digest(calibration: Calibration) -> str:
    """SHA-256 of all that decides a verdict: calibrations with the same digest judge alike."""
    values = json.dumps(values_of(calibration), sort_keys=True).encode()
    return hashlib.sha256(values + save(tensors_of(calibration))).hexdigest()


def values_of(calibration: Calibration) -> dict[str, Any]:
    """What a person would read of a calibration; with `tensors_of`, all of it."""
    roi, rates = calibration.roi, calibration.rates
    # Left out where unknown: earlier calibrations keep their digests.
    later: dict[str, Any] = (
        {} if calibration.encodings is None else {"inputs": to_dict(calibration.encodings)}
    )
    if calibration.estimates:
        later["mode"] = calibration.mode
    if calibration.images.is_smooth:
        later["rule"] = _SMOOTH
    if calibration.odd:
        later["odd"] = list(calibration.odd)
    if calibration.fold_models:
        later["fold_models"] = calibration.fold_models
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
        "statistics": None if calibration.reference is None else calibration.reference.names,
        "roi_share": None if roi is None else roi.share,
        "candidates": [to_dict(candidate) for candidate in calibration.candidates],
        **later,
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
    if calibration.synthetic is not None:
        stored["synthetic.scores"] = torch.from_numpy(calibration.synthetic)
    if calibration.roi is not None:
        stored["roi.inside"] = torch.from_numpy(calibration.roi.inside)
    if calibration.reference is not None:
        stored["usual.values"] = torch.from_numpy(calibration.reference.values)
        stored["usual.weights"] = torch.from_numpy(calibration.reference.weights)
    return stored


@dataclass(frozen=True, slots=True)
class _Values:
    """What `calibration_from` reads of `values_of`; the rest is for people."""

    normalisers: tuple[str, ...]
    weights: tuple[float, ...]
    reduction: Reduction
    map_smoothing: float
    false_alarm_rate: float
    warn_rate: float | None
    candidates: tuple[Candidate, ...]
    rates: Rates | None
    statistics: tuple[str, ...] | None
    roi_share: float | None


def calibration_from(values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Calibration:
    """Restore a calibration.

    Raises `KeyError`, `ConfigError` or `CalibrationError` if it is damaged, or if its numbers for
    people do not follow from its scores.
    """
    names = {field.name for field in fields(_Values)}
    read = from_dict(_Values, {key: value for key, value in values.items() if key in names})
    require(0 < len(read.normalisers) <= len(NORMALISERS), "it names no normaliser, or too many")
    CalibrationSettings(read.false_alarm_rate, read.warn_rate)  # raises where a rate makes no sense
    Reduction(read.map_smoothing)
    calibration = Calibration(
        normalisers=tuple(_normaliser(kind, tensors) for kind in read.normalisers),
        weights=torch.tensor(read.weights),
        reduction=read.reduction,
        images=_conformal(tensors, "images", is_smooth=values.get("rule") == _SMOOTH),
        peaks=_conformal(tensors, "peaks", is_smooth=values.get("rule") == _SMOOTH),
        false_alarm_rate=read.false_alarm_rate,
        map_smoothing=read.map_smoothing,
        candidates=read.candidates,
        warn_rate=read.warn_rate,
        roi=None if read.roi_share is None else Roi(_raster(tensors["roi.inside"])),
        rates=read.rates,
        reference=_reference(read.statistics, tensors),
        encodings=from_dict(Encodings, values["inputs"]) if "inputs" in values else None,
        estimates="mode" in values,
        given=_given(values),
        synthetic=_synthetic(tensors),
        fold_models=_count(values.get("fold_models", 0)),
        odd=_names(values.get("odd", [])),
    )
    _check_told(values, values_of(calibration))
    return calibration


def check_fits(calibration: Calibration, kinds: int, cells: int) -> None:
    """Raise `ConfigError` unless a calibration is of a model's E kinds of evidence on L cells."""
    require(len(calibration.weights) == kinds, f"its weights are not of {kinds} kinds of evidence")
    for normaliser in calibration.normalisers:
        shape = (kinds, 1 if normaliser.kind == "uniform" else cells)
        for name, tensor in normaliser.tensors().items():
            require(
                tuple(tensor.shape) == shape, f"{normaliser.kind}.{name} is not of shape {shape}"
            )
        require(
            bool((normaliser.spread > 0).all()), f"a spread of {normaliser.kind} is not positive"
        )


def require(ok: bool, problem: str) -> None:  # noqa: FBT001  (reads as an assertion)
    """Raise `ConfigError` with the problem unless all is well."""
    if not ok:
        raise ConfigError(problem)


def _given(values: dict[str, Any]) -> float | None:
    """The threshold that somebody set; None where it follows from scores."""
    if values.get("mode") != "given":
        return None
    given = values["threshold"]
    require(isinstance(given, float) and 0 < given < math.inf, "its given threshold is none")
    return float(given)


def _synthetic(tensors: dict[str, torch.Tensor]) -> FloatArray | None:
    scores = tensors.get("synthetic.scores")
    if scores is None:
        return None
    ok = scores.dtype == torch.float32 and scores.ndim == 1 and bool(scores.isfinite().all())
    require(ok, "its scores of synthetic defects are no list of scores")
    return np.sort(scores.numpy())


def _names(value: Any) -> tuple[str, ...]:
    ok = isinstance(value, list) and all(isinstance(name, str) for name in value)
    require(ok, "its odd groups are no list of names")
    return tuple(value)


def _count(value: Any) -> int:
    require(isinstance(value, int) and 0 <= value <= 100, "its number of models is none")
    return int(value)


def _check_told(stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise `ConfigError` if a manifest's threshold does not follow from its scores."""
    for key in stored.keys() & expected.keys():
        stored_value, expected_value = stored[key], expected[key]
        if isinstance(expected_value, float) and isinstance(stored_value, int | float):
            same = math.isclose(stored_value, expected_value, rel_tol=1e-6, abs_tol=1e-9)
        else:
            same = json.loads(json.dumps(expected_value)) == json.loads(json.dumps(stored_value))
        require(same, f"its {key} does not follow from its scores")


def _reference(
    names: tuple[str, ...] | None, tensors: dict[str, torch.Tensor]
) -> ReferenceStatistics | None:
    if names is None:
        return None
    values, weights = tensors["usual.values"], tensors["usual.weights"]
    ok = values.shape == (len(weights), len(names)) and weights.ndim == 1 and len(weights) > 0
    require(ok and _is_float32(values, weights), "its usual values do not fit each other")
    require(bool((weights > 0).all()), "a weight of its usual values is not positive")
    return ReferenceStatistics(names, values.numpy(), weights.numpy())


def _normaliser(kind: str, tensors: dict[str, torch.Tensor]) -> Normaliser:
    require(kind in NORMALISERS, f"there is no normaliser {kind!r}")
    return NORMALISERS[kind](tensors[f"{kind}.mean"], tensors[f"{kind}.spread"])


def _conformal(tensors: dict[str, torch.Tensor], name: str, *, is_smooth: bool) -> Conformal:
    scores, weights = tensors[f"{name}.scores"], tensors[f"{name}.weights"]
    ok = scores.ndim == 1 and scores.shape == weights.shape and len(scores) > 0
    require(ok and _is_float32(scores, weights), f"its {name} are no list of weighed scores")
    require(bool((scores[1:] >= scores[:-1]).all()), f"the scores of its {name} are not in order")
    require(
        bool(((weights > 0) & (weights <= 1)).all()), f"a weight of its {name} is out of (0, 1]"
    )
    return Conformal(scores.numpy(), weights.numpy(), is_smooth)


def _raster(inside: torch.Tensor) -> np.ndarray:
    ok = inside.dtype == torch.bool and inside.shape == (SIDE, SIDE) and bool(inside.any())
    require(ok, f"its region is no raster of {SIDE} × {SIDE}, or an empty one")
    return inside.numpy()


def _is_float32(*tensors: torch.Tensor) -> bool:
    return all(tensor.dtype == torch.float32 for tensor in tensors)
