"""Checked against independent implementations: pair counting, and a loop over thresholds."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import label as connected
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomaly.errors import ShapeError
from anomaly.metrics import aupro, f1_max, image_metrics, pixel_metrics


def pair_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    positive, negative = scores[labels][:, None], scores[~labels][None]
    return float((positive > negative).mean() + 0.5 * (positive == negative).mean())


def loop_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        precision, recall = labels[chosen].mean(), labels[chosen].sum() / labels.sum()
        total += (recall - recall_before) * precision
        recall_before = recall
    return float(total)


def loop_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    best = 0.0
    for threshold in set(scores.tolist()):
        chosen = scores >= threshold
        hits = (chosen & labels).sum()
        best = max(best, 2 * hits / (chosen.sum() + labels.sum()))
    return float(best)


def loop_aupro(masks: list[np.ndarray], maps: list[np.ndarray], limit: float) -> float:
    values = sorted({v for one in maps for v in one.ravel().tolist()}, reverse=True)
    points = [(0.0, 0.0)]
    for threshold in values:
        overlaps, false, normal = [], 0, 0
        for mask, one in zip(masks, maps, strict=True):
            regions, count = connected(mask, structure=np.ones((3, 3)))
            overlaps += [(one[regions == r] >= threshold).mean() for r in range(1, count + 1)]
            false += (one[~mask] >= threshold).sum()
            normal += (~mask).sum()
        points.append((false / normal, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize("seed", range(6))
def test_image_figures_match_pair_counting(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.random(60) < 0.4
    scores = np.round(generator.normal(size=60) + labels, 1)  # with ties
    found = image_metrics(labels, scores)
    assert found.image_AUROC == pytest.approx(pair_auroc(labels, scores))
    assert found.image_AP == pytest.approx(loop_average_precision(labels, scores))
    assert found.image_F1Max == pytest.approx(loop_f1(labels, scores))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_aupro_matches_a_loop_over_thresholds(seed: int, limit: float) -> None:
    generator = np.random.default_rng(seed)
    masks = [np.zeros((16, 16), bool) for _ in range(3)]
    masks[0][2:5, 3:9] = True
    masks[0][10:12, 10:12] = True
    masks[0][12, 12] = True  # touches by a corner: one region under 8 neighbours
    masks[1][0:8, 0:8] = True
    maps = [np.round(generator.normal(size=(16, 16)) + 1.2 * m, 1) for m in masks]
    assert aupro(masks, maps, limit) == pytest.approx(loop_aupro(masks, maps, limit), abs=1e-9)


def test_a_perfect_map_scores_one_and_a_blank_one_half_the_limit() -> None:
    mask = np.zeros((20, 20), bool)
    mask[4:9, 4:9] = True
    assert aupro([mask], [mask.astype(np.float32)]) == pytest.approx(1.0)
    assert aupro([mask], [np.zeros((20, 20))]) == pytest.approx(0.15)


def test_pixel_figures_take_images_of_different_sizes() -> None:
    masks = [np.zeros((10, 12), bool), np.zeros((7, 5), bool)]
    masks[0][2:5, 2:5] = True
    maps = [m.astype(np.float32) for m in masks]
    found = pixel_metrics(masks, maps).as_dict()
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])  # many ties, and hardly any
def test_pixel_figures_match_scikit_learn_over_all_pixels(seed: int, decimals: int) -> None:
    generator = np.random.default_rng(seed)
    masks = [generator.random((9, 11)) < 0.2, np.zeros((5, 7), bool)]
    maps = [np.round(generator.normal(size=m.shape) + m, decimals) for m in masks]
    truth = np.concatenate([m.ravel() for m in masks])
    scores = np.concatenate([m.astype(np.float32).ravel() for m in maps])
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    figures = pixel_metrics(masks, maps)
    assert figures.pixel_AUROC == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert figures.pixel_AP == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert figures.pixel_F1Max == pytest.approx(f1.max(), abs=1e-12)
    assert figures.pixel_AUPRO == aupro(masks, maps)


def test_f1_of_useless_scores_is_that_of_rejecting_all() -> None:
    labels = np.array([True, False, False, False])
    assert f1_max(labels, np.zeros(4)) == pytest.approx(0.4)


def test_one_kind_only_cannot_be_measured() -> None:
    with pytest.raises(ShapeError, match="both"):
        image_metrics(np.ones(4, bool), np.arange(4.0))
    with pytest.raises(ShapeError, match="both"):
        pixel_metrics([np.zeros((4, 4), bool)], [np.zeros((4, 4))])
    with pytest.raises(ShapeError):
        aupro([np.zeros((4, 4), bool)], [np.zeros((4, 4))])
