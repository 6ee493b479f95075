"""What needs anomalib runs where it is installed: CI leaves the extra `bench` out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import trained_peers
from bench.figures import figures
from bench.peers import outcome
from tests.conftest import TINY
from training.config import TrainConfig, load_recipe
from training.data import Dataset, Sample, open_dataset

SIDE = 128  # SuperSimpleNet's noise takes no much smaller ones
pytestmark = pytest.mark.filterwarnings("ignore")  # anomalib's own


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anomalib")
    monkeypatch.setattr(trained_peers, "EFFICIENTAD_STEPS", 3)
    monkeypatch.setattr(trained_peers, "SUPERSIMPLENET_STEPS", 40)
    monkeypatch.setattr(trained_peers, "MEASURED", 2)


@pytest.fixture
def config() -> TrainConfig:
    return load_recipe("default", [*TINY, f"model.preprocess.canvas={SIDE}"])


@pytest.fixture
def dataset(tiny_data: Path) -> Dataset:
    return open_dataset(tiny_data)


def a_few(dataset: Dataset) -> Dataset:
    """Four training images, two held out, a good and a broken one to test."""
    test = dataset.select("test")
    good, bad = ([s for s in test if s.is_normal == normal][:1] for normal in (True, False))
    samples = (*dataset.normal("train")[:4], *dataset.normal("validation")[:2], *good, *bad)
    return Dataset(dataset.root, samples)


def test_samples_are_drawn_equally_often_and_the_same_for_a_seed() -> None:
    samples = [Sample(Path(f"{i}.png"), "good", "train", str(i)) for i in range(5)]
    drawn = trained_peers.in_random_order(samples, 12, 0)
    counts = [drawn.count(sample) for sample in samples]
    assert (len(drawn), min(counts), max(counts)) == (12, 2, 3)
    assert drawn == trained_peers.in_random_order(samples, 12, 0)
    assert drawn != trained_peers.in_random_order(samples, 12, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_supersimplenet_tells_broken_parts_and_where(dataset: Dataset, config: TrainConfig) -> None:
    result = outcome(trained_peers.supersimplenet, dataset, config, seed=0, group_by=None)
    row = figures(result, dataset.select("test"))
    assert {anomaly_map.shape for anomaly_map in result.maps} == {(SIDE, SIDE)}
    assert row["image_AUROC"] > 0.9
    assert row["pixel_AUROC"] > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_seed_trains_the_same_supersimplenet(
    dataset: Dataset, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_peers, "SUPERSIMPLENET_STEPS", 3)
    canvas = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    normal = dataset.normal("train")
    first, again, other = (
        trained_peers.supersimplenet(normal, config, seed).score(canvas)[0] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_efficientad_maps_canvases_smaller_than_it_takes(
    dataset: Dataset, config: TrainConfig
) -> None:
    few = a_few(dataset)
    result = outcome(trained_peers.efficientad, few, config, seed=0, group_by=None)
    assert result.scores.shape == (2,)
    assert {anomaly_map.shape for anomaly_map in result.maps} == {(SIDE, SIDE)}
    assert np.isfinite(result.scores).all()
    assert {"image_AUROC", "pixel_AP", "region_iou", "box_recall"} <= set(
        figures(result, few.select("test"))
    )
