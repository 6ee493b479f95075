"""A score that is no finite number is an error wherever a verdict could follow from it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomaly.bundle import Bundle
from anomaly.detector import Detector, judge
from anomaly.drift import Watch
from anomaly.errors import CalibrationError, ScoreNotFinite
from anomaly.normal_set import NormalSet
from anomaly.runtime import detector_of
from anomaly.scoring import Evidence
from anomaly.types import RgbImage, verdict_of
from tests.conftest import normal_pixels, planted

ODD = (math.nan, math.inf, -math.inf)


def spoilt(bundle: Bundle, value: float, kind: int, cell: int) -> Detector:
    """A detector whose model gives one odd number in one cell of one kind of evidence."""

    def network(pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
        found = bundle.model(pixels, seeds)
        error = found.values.clone()
        error[:, :, kind, cell] = value
        return Evidence(error, found.names)

    assert bundle.calibration is not None
    return Detector(bundle.model, bundle.calibration, network=network)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("kind", [0, 1, -1])
@pytest.mark.parametrize("cell", [0, 27, -1])
def test_an_odd_number_anywhere_in_the_evidence_is_an_error(
    tiny_bundle: Bundle, value: float, kind: int, cell: int
) -> None:
    image = RgbImage(planted(normal_pixels(1), 60, 40, 8))
    with pytest.raises(ScoreNotFinite, match="look at it by hand") as caught:
        spoilt(tiny_bundle, value, kind, cell).detect([image])
    assert caught.value.code == "score_not_finite"


@given(st.sampled_from(["score", "threshold", "warn"]), st.sampled_from(ODD))
def test_no_verdict_follows_from_an_odd_number(where: str, value: float) -> None:
    numbers = {"score": 1.0, "threshold": 3.0, "warn": 2.0} | {where: value}
    with pytest.raises(ScoreNotFinite):
        verdict_of(numbers["score"], numbers["threshold"], numbers["warn"])


@pytest.mark.parametrize("value", ODD)
def test_no_detection_is_judged_by_odd_thresholds(tiny_bundle: Bundle, value: float) -> None:
    [found] = detector_of(tiny_bundle).detect([RgbImage(normal_pixels(1))])
    for odd in (
        lambda: judge(found, value, 1.0),
        lambda: judge(found, 1.0, value),
        lambda: judge(replace(found, pred_score=value), 1.0, 1.0),
    ):
        with pytest.raises(ScoreNotFinite):
            odd()


@pytest.mark.parametrize("value", ODD)
def test_no_calibration_stands_on_an_odd_number(tiny_bundle: Bundle, value: float) -> None:
    model, groups = tiny_bundle.model, ("a", "b")
    error = torch.rand(2, 1, len(model.names), model.target.map_grid.length)
    copies, inputs = error.clone(), np.zeros((2, 5), np.float32)
    for one in (error, copies, inputs):
        kept = one.copy() if isinstance(one, np.ndarray) else one.clone()
        one.reshape(-1)[3] = value
        with pytest.raises(CalibrationError, match="not finite"):
            NormalSet(
                Evidence(error, model.names),
                groups,
                model.target.map_grid,
                Evidence(copies, model.names),
                inputs=inputs,
            )
        one[:] = kept  # type: ignore[call-overload]


@pytest.mark.parametrize("value", ODD)
def test_no_watch_ranks_an_odd_number(tiny_bundle: Bundle, value: float) -> None:
    assert tiny_bundle.calibration is not None
    watch = Watch(tiny_bundle.calibration)
    inputs = np.zeros(5, np.float32)
    with pytest.raises(ScoreNotFinite):
        watch.add(value, inputs, 0.0, datetime.now(UTC))
    inputs[2] = value
    with pytest.raises(ScoreNotFinite, match="not a finite number"):
        watch.add(1.0, inputs, 0.0, datetime.now(UTC))
    assert watch.parts == 0
