from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly.calibrate import NORMALISER_SETS, REDUCTIONS, calibrate, recalibrate, weigh
from anomaly.calibration import Calibration, CalibrationSettings
from anomaly.errors import CalibrationError
from anomaly.normal_set import NormalSet
from anomaly.roi import Roi
from anomaly.scoring import Evidence
from anomaly.types import Grid

GRID = Grid(6, 6, 8)
NAMES = ("masked.a", "memory.a")


def draw(count: int, seed: int, defect: float = 0.0) -> Evidence:
    """Random errors (N, 2, 2, 36); a defect raises one patch."""
    generator = torch.Generator().manual_seed(seed)
    error = torch.rand(count, 2, 2, 36, generator=generator) + 0.5
    error += 0.3 * torch.rand(count, 1, 1, 1, generator=generator)
    error[:, :, :, 14:16] += defect
    return Evidence(error, NAMES)


def normals(count: int, seed: int = 0) -> NormalSet:
    return NormalSet(draw(count, seed), tuple(str(i) for i in range(count)), GRID)


def image_scores(calibration: Calibration, errors: Evidence) -> np.ndarray:
    return calibration.reduction(calibration.patch_scores(errors).mean(dim=1), GRID).numpy()


def test_a_stated_rate_is_met_on_other_normals() -> None:
    realised = []
    for seed in range(12):
        calibration = calibrate(normals(150, seed), CalibrationSettings(0.1))
        scores = image_scores(calibration, draw(400, 1000 + seed))
        realised.append(float((scores > calibration.threshold).mean()))
    assert np.mean(realised) <= 0.13
    assert np.mean(realised) >= 0.05  # a threshold that rejects nothing would be no feat


def test_defects_score_higher_and_get_small_p_values() -> None:
    calibration = calibrate(normals(150), CalibrationSettings(0.05))
    scores = image_scores(calibration, draw(50, 7, defect=3.0))
    assert float((scores > calibration.threshold).mean()) == 1.0
    assert calibration.images.p_value(float(scores[0])) == pytest.approx(1 / 151)


def test_too_few_normals_cannot_certify_and_say_so() -> None:
    calibration = calibrate(normals(40), CalibrationSettings(0.01))
    assert not calibration.is_certified
    assert calibration.images.smallest_rate == pytest.approx(1 / 41)
    assert calibration.mode == "estimated"
    assert calibration.estimate is not None
    assert calibration.threshold == calibration.estimate.threshold
    of_before = replace(calibration, estimates=False)
    assert of_before.mode == "largest"
    assert of_before.threshold == float(calibration.images.scores[-1])
    assert calibrate(normals(120), CalibrationSettings(0.01)).is_certified


def test_one_group_is_not_enough() -> None:
    lonely = NormalSet(draw(5, 0), ("lot1",) * 5, GRID)
    with pytest.raises(CalibrationError, match="at least 2"):
        calibrate(lonely)


def test_images_are_scored_out_of_fold() -> None:
    """One wild image must not pull the statistics that score it."""
    errors = draw(10, 0)
    errors.values[3] += 50
    wild = NormalSet(errors, tuple(str(i) for i in range(10)), GRID)
    highest = float(calibrate(wild).images.scores[-1])
    assert highest > 30


def test_synthetic_defects_are_tried_on_every_candidate() -> None:
    base = normals(60)
    with_copies = NormalSet(
        base.evidence, base.groups, GRID, draw(60, 5, defect=0.8), tuple(range(60))
    )
    candidates = calibrate(with_copies).candidates
    assert len(candidates) == len(NORMALISER_SETS) * len(REDUCTIONS)
    assert all(c.synthetic_auroc is not None and 0.5 < c.synthetic_auroc <= 1 for c in candidates)


def test_another_scoring_is_chosen_only_when_it_is_clearly_better() -> None:
    """Defects of a single patch drown in the default's smoothing only when they are faint."""
    base = normals(80)
    error = draw(80, 5).values
    error[:, :, :, 20] += 0.55
    faint = Evidence(error, NAMES)
    chosen = calibrate(NormalSet(base.evidence, base.groups, GRID, faint, tuple(range(80))))
    best = max(c.synthetic_auroc or 0 for c in chosen.candidates)
    default = chosen.candidates[0].synthetic_auroc or 0
    kept = chosen.reduction == REDUCTIONS[0] and len(chosen.normalisers) == 1
    assert kept == (best - default <= 0.03)


def test_families_have_an_equal_say_and_kinds_count_by_what_they_tell() -> None:
    names = ("masked.good", "masked.blind", "memory.good")
    normal = torch.randn(200, 1, 3, 36, generator=torch.Generator().manual_seed(1))
    normal[:, :, 2] *= 40  # another unit
    altered = normal.clone()
    altered[:, :, 0, 14:20] += 4
    altered[:, :, 2, 14:20] += 160
    copies = Evidence(altered, names)
    groups = tuple(str(i) for i in range(200))
    seen = NormalSet(Evidence(normal, names), groups, GRID, copies, tuple(range(200)))
    good, blind, other = weigh(seen).tolist()
    assert blind < 0.05 * good
    assert good == pytest.approx(other, rel=0.05)  # z-scores of either family: unit spread
    unseen = NormalSet(Evidence(normal, names), groups, GRID)
    good, blind, _ = weigh(unseen).tolist()
    assert good == pytest.approx(blind)


def test_maps_are_smoothed_as_far_as_synthetic_defects_are_large() -> None:
    base = normals(80)
    groups, origin = base.groups, tuple(range(80))

    def chosen(cells: list[int]) -> float:
        error = draw(80, 5).values
        altered = torch.zeros(80, 36, dtype=torch.bool)
        altered[:, cells] = True
        error[:, :, :, cells] += 0.4
        seen = NormalSet(base.evidence, groups, GRID, Evidence(error, NAMES), origin, altered)
        return calibrate(seen).map_smoothing

    small, large = chosen([14]), chosen([7, 8, 9, 10, 13, 14, 15, 16, 19, 20, 21, 22])
    assert small < large
    assert calibrate(base).map_smoothing == 1.0


def test_a_region_takes_the_rest_out_of_everything() -> None:
    inside = torch.zeros(36, dtype=torch.bool)
    inside[:18] = True
    quiet = normals(60)
    wild = quiet.evidence.values.clone()
    wild[:, :, :, 18:] = 50 * torch.rand(60, 2, 2, 18, generator=torch.Generator().manual_seed(5))
    counts = inside.expand(60, -1)
    roi = Roi(np.ones((4, 4), bool))
    calm = calibrate(replace(quiet, roi_mask=counts), CalibrationSettings(0.1, roi=roi))
    loud = calibrate(
        replace(quiet, evidence=Evidence(wild, NAMES), roi_mask=counts),
        CalibrationSettings(0.1, roi=roi),
    )
    assert calm.roi is roi
    assert calm.threshold == pytest.approx(loud.threshold, rel=1e-4)
    assert calm.map_threshold == pytest.approx(loud.map_threshold, rel=1e-4)


def test_copies_damaged_outside_the_region_are_not_held_against_it() -> None:
    inside = torch.zeros(36, dtype=torch.bool)
    inside[:12] = True  # the defect of `draw` lies at 14 and 15
    base = normals(60)
    altered = torch.zeros(60, 36, dtype=torch.bool)
    altered[:, 14:16] = True
    copies = replace(
        base, corrupted=draw(60, 3, defect=3.0), origin=tuple(range(60)), altered=altered
    )
    seen = calibrate(copies).candidates[0].synthetic_auroc
    unseen = (
        calibrate(replace(copies, roi_mask=inside.expand(60, -1))).candidates[0].synthetic_auroc
    )
    assert seen is not None
    assert seen > 0.9
    assert unseen == 0.5  # nothing was left to tell


def test_between_two_thresholds_a_part_is_doubtful() -> None:
    calibration = calibrate(normals(150), CalibrationSettings(0.02, 0.2))
    assert calibration.warn_threshold is not None
    assert calibration.warn_threshold < calibration.threshold
    assert calibration.images.p_value(calibration.warn_threshold + 1e-3) <= 0.2
    assert calibrate(normals(150)).warn_threshold is None
    for rate in (0.02, 0.01, 1.0, float("nan")):
        with pytest.raises(CalibrationError, match="warning rate"):
            CalibrationSettings(0.02, rate)


def test_recalibrating_on_the_same_normals_is_the_same_calibration() -> None:
    first = calibrate(normals(80), CalibrationSettings(0.05))
    second = recalibrate(first, normals(80), CalibrationSettings(0.05))
    assert second.threshold == first.threshold
    assert second.rates == first.rates
    errors = draw(5, 9)
    torch.testing.assert_close(second.patch_scores(errors), first.patch_scores(errors))


def test_recalibrating_keeps_the_choices_and_meets_its_rate_in_other_light() -> None:
    first = calibrate(normals(200), CalibrationSettings(0.05))
    brighter = [draw(200, 70), draw(400, 71)]
    new, later = [Evidence(1.5 * one.values + 0.2, NAMES) for one in brighter]
    shifted = NormalSet(new, tuple(str(i) for i in range(200)), GRID)
    second = recalibrate(first, shifted, CalibrationSettings(0.05))
    assert second.reduction == first.reduction
    assert second.candidates == first.candidates
    assert np.mean(image_scores(first, later) > first.threshold) > 0.5
    assert np.mean(image_scores(second, later) > second.threshold) <= 0.09


def test_in_sample_rates_flatter() -> None:
    rates = [calibrate(normals(40, seed), CalibrationSettings(0.1)).rates for seed in range(8)]
    in_sample = np.mean([one.in_sample for one in rates if one is not None])
    held_out = np.mean([one.held_out for one in rates if one is not None])
    assert in_sample <= held_out <= 0.11
