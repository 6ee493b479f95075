from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.calibration import Calibration
from anomaly.detector import Detector
from anomaly.explanation import explain, families_of, family_scores
from anomaly.image_score import Reduction
from anomaly.preprocess import preprocess
from anomaly.roi import Roi
from anomaly.scoring import Evidence
from anomaly.types import Placement, RgbImage
from tests.conftest import normal_pixels, planted

REDUCTIONS = [Reduction(0.5, 0.01), Reduction(1.0, 0.3), Reduction(0.0, 0.0)]


@pytest.fixture
def calibration(tiny_bundle: Bundle) -> Calibration:
    assert tiny_bundle.calibration is not None
    return tiny_bundle.calibration


def seen(bundle: Bundle, *parts: RgbImage) -> tuple[Evidence, list[Placement]]:
    pixels, placements = preprocess(list(parts), bundle.model.config.preprocess)
    return bundle.model(pixels, range(len(parts))), placements


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shares_add_up_and_contributions_make_the_detector_s_score(
    tiny_bundle: Bundle, calibration: Calibration, reduction: Reduction
) -> None:
    calibration = replace(calibration, reduction=reduction)
    grid = tiny_bundle.model.target.map_grid
    for part in (normal_pixels(6000), planted(normal_pixels(6001), 80, 40, 12)):
        image = RgbImage(part)
        (detection,) = Detector(tiny_bundle.model, calibration).detect([image])
        assert detection.errors is not None
        errors = torch.from_numpy(detection.errors).float()[None, None]
        evidence = Evidence(errors, tiny_bundle.model.names)
        made = explain(evidence, calibration, grid, detection.placement)
        assert made.score == pytest.approx(detection.pred_score, rel=0.01, abs=0.01)
        assert sum(f.contribution for f in made.families) == pytest.approx(made.score, abs=1e-4)
        assert sum(f.share for f in made.families) == pytest.approx(1)
        assert sum(f.weight for f in made.families) == pytest.approx(1)
        assert {f.family for f in made.families} == {"masked", "memory", "repair"}
        assert [f.share for f in made.families] == sorted(f.share for f in made.families)[::-1]


def test_the_family_that_is_perturbed_has_the_largest_share(
    tiny_bundle: Bundle, calibration: Calibration
) -> None:
    evidence, (placement,) = seen(tiny_bundle, RgbImage(normal_pixels(6000)))
    grid, names = tiny_bundle.model.target.map_grid, evidence.names
    spread = calibration.normalisers[0].spread.mean(dim=1)  # (E,)
    for family in families_of(names):
        values = evidence.values.clone()
        cell = grid.cols * 3 + 5
        for row, name in enumerate(names):
            if name.startswith(family):
                values[:, :, row, cell] += 30 * spread[row]
        made = explain(Evidence(values, names), calibration, grid, placement)
        assert made.families[0].family == family
        assert made.families[0].share > 0.8
        strongest = made.cells[0]
        assert strongest.family == family
        x, y, width, height = strongest.box  # an image of 96 x 128 on 8 x 8 cells
        assert (x, y, width, height) == (5 * 16, 3 * 12, 16, 12)


def test_one_family_s_score_is_comparable_and_the_same_for_many_at_once(
    tiny_bundle: Bundle, calibration: Calibration
) -> None:
    parts = [RgbImage(normal_pixels(6000 + i)) for i in range(3)]
    evidence, placements = seen(tiny_bundle, *parts)
    grid = tiny_bundle.model.target.map_grid
    together = family_scores(evidence, calibration, grid)
    for number, placement in enumerate(placements):
        alone = explain(evidence[number : number + 1], calibration, grid, placement)
        for family in alone.families:
            assert float(together[family.family][number]) == pytest.approx(family.score, abs=1e-4)
    same = replace(calibration, weights=torch.full_like(calibration.weights, 0.25))
    everything = Evidence(evidence.values, tuple(f"masked.{n}" for n in evidence.names))
    whole = family_scores(everything, same, grid)["masked"]
    torch.testing.assert_close(whole, same.image_scores(everything, grid))


def test_only_what_lies_in_the_region_of_interest_decides(
    tiny_bundle: Bundle, calibration: Calibration
) -> None:
    evidence, (placement,) = seen(tiny_bundle, RgbImage(planted(normal_pixels(6001), 20, 40, 10)))
    inside = np.zeros((96, 128), np.bool_)
    inside[:, 64:] = True
    right = Roi.of_mask(inside)
    grid = tiny_bundle.model.target.map_grid
    everywhere = explain(evidence, calibration, grid, placement)
    made = explain(evidence, replace(calibration, roi=right), grid, placement)
    assert everywhere.cells[0].box[0] < 64 <= made.cells[0].box[0]
    assert made.score < everywhere.score


def test_where_nothing_stands_out_shares_are_the_weights(
    tiny_bundle: Bundle, calibration: Calibration
) -> None:
    evidence, (placement,) = seen(tiny_bundle, RgbImage(normal_pixels(6000)))
    calm = Evidence(torch.full_like(evidence.values, -1e3), evidence.names)
    made = explain(calm, calibration, tiny_bundle.model.target.map_grid, placement)
    assert made.score < 0
    for family in made.families:
        assert family.share == pytest.approx(family.weight)
