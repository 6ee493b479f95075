"""Every normal part trains and calibrates: each is scored by a model that has not seen it.

The parts are divided into folds by group. For each fold a model is trained on the others, as the
deployed one is on all, and gathers evidence on the fold (cross-conformal prediction, Vovk 2015,
"Cross-conformal predictors"; CV+, Barber et al. 2021, "Predictive inference with the jackknife+").
The deployed model has seen more parts than any of them, so that good parts score no higher by it.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomaly.normal_set import NormalSet, folds_of, joined
from anomaly.roi import Roi
from training.calibrate import measure
from training.config import CrossfitConfig, TrainConfig, without_detail
from training.decoding import STRICT, Decoding
from training.loop import train
from training.progress import SHOWN, Progress
from training.samples import Sample

_log = logging.getLogger(__name__)


def fold_count(samples: Sequence[Sample], config: CrossfitConfig) -> int:
    """Return how many folds these normal images are worth; 0 where one split does."""
    groups = len({sample.session for sample in samples})
    if groups > config.groups or min(groups, config.folds) < 2:
        return 0
    return min(groups, config.folds)


def assign_folds(samples: Sequence[Sample], folds: int) -> np.ndarray:
    """Assign each sample a fold (N,), whole groups together, folds of even size."""
    return folds_of([sample.session for sample in samples], folds)


def cross_fitted(
    samples: Sequence[Sample],
    config: TrainConfig,
    run_folder: Path,
    *,
    folds: int,
    roi: Roi | None = None,
    resume: bool = False,
    decoding: Decoding = STRICT,
    progress: Progress = SHOWN,
) -> NormalSet:
    """Train a model without each fold and gather its evidence on that fold.

    Returns the evidence on all samples, fold by fold. Raises what `train` and `measure` raise.
    """
    assigned = assign_folds(samples, folds)
    config = without_detail(config)  # it is no evidence
    sets = []
    for fold in range(folds):
        _log.info("model %d of %d for calibrating: trained without a fold", fold + 1, folds)
        rest = [s for s, own in zip(samples, assigned, strict=True) if own != fold]
        held = [s for s, own in zip(samples, assigned, strict=True) if own == fold]
        folder = run_folder / f"fold{fold + 1}"
        model, _ = train(rest, config, folder, resume=resume, progress=progress)
        sets.append(measure(model, held, roi, decoding=decoding, progress=progress))
    return replace(joined(sets), fold_models=folds)
