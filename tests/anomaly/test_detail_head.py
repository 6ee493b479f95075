"""The detail head: shapes, and what it says when it has nothing to say."""

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.config import from_dict, to_dict
from anomaly.detail_head import DetailHead
from anomaly.detector import Detector, judge
from anomaly.errors import ConfigError
from anomaly.heatmap import canvas_map
from anomaly.preprocess import content_seed, preprocess
from anomaly.scoring import ScoringConfig
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted


@pytest.mark.parametrize(("side", "cells"), [(64, 8), (56, 7), (63, 9), (30, 3)])
def test_every_pixel_of_a_canvas_has_a_logit(side: int, cells: int) -> None:
    head = DetailHead(5, 4).eval()
    logits = head(torch.rand(2, 3, side, side), torch.rand(2, 5, cells, cells))
    assert logits.shape == (2, side, side)


def test_a_silenced_head_says_the_same_of_every_pixel_even_if_it_had_diverged() -> None:
    head = DetailHead(5, 4).eval()
    with torch.no_grad():
        for tensor in (*head.parameters(), *head.buffers()):
            tensor.fill_(torch.nan if tensor.is_floating_point() else 3)
    head.silence()
    logits = head(torch.rand(1, 3, 32, 32), torch.rand(1, 5, 4, 4))
    assert bool((logits == 0).all())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in head.state_dict().values())


def test_evidence_is_standardised_by_kind() -> None:
    head = DetailHead(2, 4)
    head.fit(torch.stack([torch.full((4, 3, 3), 7.0), 5 * torch.randn(4, 3, 3)], dim=1))
    assert head.mean[0].item() == 7
    assert head.spread[0].item() == pytest.approx(1e-6)  # never a division by zero
    assert head.spread[1].item() == pytest.approx(5, rel=0.4)


def test_a_width_out_of_range_is_refused() -> None:
    for width in (-1, 100_000):
        with pytest.raises(ConfigError, match="detail_width"):
            ScoringConfig(detail_width=width)


def test_models_of_before_the_detail_head_have_none() -> None:
    before = to_dict(ScoringConfig())
    del before["detail_width"]
    assert from_dict(ScoringConfig, before).detail_width == 0


def test_only_what_stands_out_is_looked_at_closer(sharp_bundle: Bundle) -> None:
    assert sharp_bundle.calibration is not None
    detector = Detector(sharp_bundle.model, sharp_bundle.calibration)
    good, bad = detector.detect(
        [RgbImage(normal_pixels(301)), RgbImage(planted(normal_pixels(300), 64, 48, 12))]
    )
    assert good.detail is None
    np.testing.assert_array_equal(
        good.anomaly_map, canvas_map(good.patch_scores, good.placement.canvas)
    )
    coarse = canvas_map(bad.patch_scores, bad.placement.canvas)
    assert bad.detail is not None
    assert bad.detail.shape == bad.anomaly_map.shape == coarse.shape
    assert bad.anomaly_map.max() == pytest.approx(coarse.max(), rel=1e-5)
    assert bad.anomaly_map.sum() < coarse.sum()
    lenient = judge(bad, bad.pred_score + 1, bad.map_threshold)
    assert judge(lenient, bad.threshold, bad.map_threshold).regions == bad.regions


def test_the_detail_does_not_depend_on_batch_mates(sharp_bundle: Bundle) -> None:
    assert sharp_bundle.calibration is not None
    detector = Detector(sharp_bundle.model, sharp_bundle.calibration)
    images = [RgbImage(planted(normal_pixels(300 + i), 40 + 9 * i, 48, 8)) for i in range(4)]
    for alone, beside in zip(
        [detector.detect([image])[0] for image in images], detector.detect(images), strict=True
    ):
        assert alone.detail is not None
        assert beside.detail is not None
        np.testing.assert_array_equal(alone.detail, beside.detail)
        np.testing.assert_array_equal(alone.anomaly_map, beside.anomaly_map)


def test_the_detail_is_sought_around_what_is_suspicious_alone(sharp_bundle: Bundle) -> None:
    model = sharp_bundle.model
    pixels, _ = preprocess(
        [RgbImage(planted(normal_pixels(300), 20, 20, 8))], model.config.preprocess
    )
    evidence = model(pixels, [content_seed(pixels[0])]).mean[0]
    grid = model.target.map_grid
    cells = torch.zeros(grid.rows, grid.cols, dtype=torch.bool)
    cells[1, 1] = True
    share = model.altered_share(pixels[0], evidence, cells)
    assert share.shape == pixels.shape[2:]
    assert 0 <= float(share.min()) <= float(share.max()) <= 1
    assert float(share[:, 6 * grid.patch :].max()) == 0
    cells[:] = True
    everywhere = model.altered_share(pixels[0], evidence, cells)
    assert float(everywhere[:, 6 * grid.patch :].max()) > 0


def test_a_model_without_the_head_keeps_its_maps(sharp_bundle: Bundle, tiny_bundle: Bundle) -> None:
    assert sharp_bundle.calibration is not None
    bad = RgbImage(planted(normal_pixels(300), 64, 48, 12))
    [sharp] = Detector(sharp_bundle.model, sharp_bundle.calibration).detect([bad])
    [plain] = Detector(tiny_bundle.model, sharp_bundle.calibration).detect([bad])
    assert plain.detail is None
    assert plain.pred_score == sharp.pred_score
    assert plain.verdict == sharp.verdict
    np.testing.assert_array_equal(plain.patch_scores, sharp.patch_scores)
