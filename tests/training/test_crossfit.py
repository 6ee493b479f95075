"""Every normal part trains and calibrates, each scored by a model that has not seen it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly.bundle import load_bundle
from anomaly.calibration import CalibrationSettings
from anomaly.errors import ConfigError
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted, write_set
from training import crossfit
from training.config import CrossfitConfig, TrainConfig
from training.crossfit import assign_folds, cross_fitted, fold_count
from training.data import open_dataset
from training.pipeline import Training, train_model
from training.progress import QUIET
from training.samples import Sample


def grouped(sessions: Sequence[str]) -> list[Sample]:
    return [
        Sample(Path(f"{i}.png"), "good", "train", session) for i, session in enumerate(sessions)
    ]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.integers(2, 6))
def test_a_group_lies_in_one_fold_and_folds_are_even(numbers: list[int], folds: int) -> None:
    sessions = [f"s{number}" for number in numbers]
    assigned = assign_folds(grouped(sessions), folds)
    by_session: dict[str, set[int]] = {}
    for session, fold in zip(sessions, assigned.tolist(), strict=True):
        by_session.setdefault(session, set()).add(fold)
    assert all(len(own) == 1 for own in by_session.values())
    sizes = np.bincount([next(iter(own)) for own in by_session.values()], minlength=folds)
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("groups", "folds", "worth"), [(30, 5, 5), (100, 5, 5), (101, 5, 0), (3, 5, 3), (30, 0, 0)]
)
def test_small_sets_are_worth_folds(groups: int, folds: int, worth: int) -> None:
    samples = grouped([f"s{i // 2}" for i in range(2 * groups)])
    assert fold_count(samples, CrossfitConfig(folds)) == worth


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="folds"):
        CrossfitConfig(folds=1)


def test_no_part_is_scored_by_a_model_that_saw_it(
    tiny_data: Path, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[set[Path]] = []
    scored: list[set[Path]] = []
    train, measure = crossfit.train, crossfit.measure

    def training(samples: Sequence[Sample], *args: Any, **how: Any) -> Any:
        trained.append({sample.path for sample in samples})
        return train(samples, *args, **how)

    def measuring(model: Any, samples: Sequence[Sample], *args: Any, **how: Any) -> Any:
        scored.append({sample.path for sample in samples})
        return measure(model, samples, *args, **how)

    monkeypatch.setattr(crossfit, "train", training)
    monkeypatch.setattr(crossfit, "measure", measuring)
    samples = open_dataset(tiny_data).normal("train")[:12]
    short = replace(tiny_config, optimiser=replace(tiny_config.optimiser, steps=2))
    normals = cross_fitted(samples, short, tmp_path, folds=3, progress=QUIET)
    everything = {sample.path for sample in samples}
    assert [seen | held for seen, held in zip(trained, scored, strict=True)] == [everything] * 3
    assert not any(seen & held for seen, held in zip(trained, scored, strict=True))
    assert sorted(normals.groups) == sorted(sample.session for sample in samples)
    assert normals.fold_models == 3
    assert normals.corrupted is not None
    assert len(normals.corrupted.values) == len(normals.origin) == 24
    assert sorted(set(normals.origin)) == list(range(12))


@pytest.mark.slow
def test_a_small_set_is_trained_and_calibrated_on_as_a_whole(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "good", {".": 30})
    config = replace(tiny_config, crossfit=CrossfitConfig(folds=3))
    how = Training(calibration=CalibrationSettings(0.05))
    bundle = train_model(open_dataset(data), tmp_path / "part", config, how, progress=QUIET)
    stored = load_bundle(tmp_path / "part")
    assert bundle.card["training"]["images"] == 30
    for calibration in (bundle.calibration, stored.calibration):
        assert calibration is not None
        assert calibration.images.groups == 30
        assert calibration.fold_models == 3
        assert calibration.mode == "certified"  # 1 / 31 is less than 5 %
        assert calibration.synthetic is not None
        assert len(calibration.synthetic) > 30
    detector = detector_of(stored)
    others = detector.detect([RgbImage(normal_pixels(500 + i)) for i in range(40)])
    assert np.mean([detection.is_anomalous for detection in others]) <= 0.2
    [bad] = detector.detect([RgbImage(planted(normal_pixels(700), 60, 40, 10))])
    assert bad.is_anomalous
