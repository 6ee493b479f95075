"""What the default threshold catches when there are thirty good parts in all.

    python -m bench.thirty ../data/brain_mri ../data/fabric --draws 10

Of each set, that many normal images are drawn at random from its training and validation splits,
whole groups together, and a model is trained and calibrated on them as `maskline train` does. The
test split is scored once. Beside it: the recall of the best threshold that rejects at most a tenth
of the normal test images, whether the realised rate lies within what was stated, and peers fitted
on the same images.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly.bundle import Bundle
from anomaly.calibration import CalibrationSettings
from anomaly.metrics import partial_auroc, reachable_recall
from anomaly.runtime import detector_of
from bench.peers import PEERS, outcome
from bench.quality import methods_of
from bench.sessions import independent
from training.config import TrainConfig, load_recipe
from training.data import Dataset, open_dataset
from training.decoding import STRICT
from training.pipeline import Training, train_model
from training.progress import QUIET
from training.samples import Sample

_ALLOWED = 0.1  # false alarms of the best threshold


def main() -> None:
    """Print a line for each draw, and a table of the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--normals", type=int, default=30)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--rate", type=float, help="false-alarm rate that is stated")
    parser.add_argument("--peers", default="", help=f"some of {', '.join(PEERS)}, by comma")
    parser.add_argument("--out", type=Path, default=Path("thirty"))
    options = parser.parse_args()
    peers = methods_of(options.peers)
    rows = []
    for path in options.data:
        dataset = independent(open_dataset(path))
        for draw in range(options.first, options.first + options.draws):
            config = load_recipe(options.recipe, [*options.set, f"run.seed={draw}"])
            few = drawn(dataset, options.normals, draw)
            row = ours(few, options.out / f"{path.name}-{draw}", config, options.rate)
            for name in peers:
                row |= {name: theirs(name, few, config)}
            rows.append({"set": path.name, "draw": draw, **row})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows, peers))


def drawn(dataset: Dataset, normals: int, draw: int) -> Dataset:
    """Keep so many normal images, in whole groups as far as that goes, and the test split."""
    good = [s for s in dataset.samples if s.is_normal and s.split != "test"]
    sessions = sorted({sample.session for sample in good})
    order = np.random.default_rng((draw, 30)).permutation(len(sessions))
    kept: list[Sample] = []
    for index in order:
        if len(kept) < normals:
            kept += [s for s in good if s.session == sessions[index]][: normals - len(kept)]
    # As a folder of good parts alone: what is held out is for the training to decide.
    free = [replace(s, split="train", drawn_into=("validation",)) for s in kept]
    held = set(sorted({s.session for s in free})[:: max(2, len({s.session for s in free}) // 6)])
    split = [replace(s, split="validation") if s.session in held else s for s in free]
    return replace(dataset, samples=(*split, *dataset.select("test")))


def ours(dataset: Dataset, folder: Path, config: TrainConfig, rate: float | None) -> dict[str, Any]:
    """Train on the few and judge the test split by the default threshold."""
    started = time.monotonic()
    how = Training(calibration=CalibrationSettings(rate))
    bundle = train_model(dataset, folder, config, how, progress=QUIET)
    seconds = time.monotonic() - started
    calibration = bundle.calibration
    assert calibration is not None
    scores, bad = scored(bundle, dataset.select("test"))
    realised, estimate = float((scores[~bad] > calibration.threshold).mean()), calibration.estimate
    count = int((~bad).sum())
    expected = calibration.images.expected(calibration.false_alarm_rate, count)
    low, high = expected.low / count, expected.high / count
    if estimate is not None:
        slack = 1.96 * np.sqrt(estimate.high * (1 - estimate.high) / count)
        low, high = 0.0, estimate.high + slack
    return {
        "image_AUROC": float(roc_auc_score(bad, scores)),
        "image_pAUROC": partial_auroc(bad, scores),
        "synthetic_AUROC": calibration.synthetic_auroc,
        "mode": calibration.mode,
        "stated": calibration.false_alarm_rate,
        "groups": calibration.images.groups,
        "fold_models": calibration.fold_models,
        "realised": realised,
        "covered": bool(low <= realised <= high),
        "recall": float((scores[bad] > calibration.threshold).mean()),
        "reachable": reachable_recall(bad, scores, _ALLOWED),
        "train_s": round(seconds),
    }


def scored(bundle: Bundle, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of samples (N,), and which are defective (N,)."""
    detector, scores = detector_of(bundle, "auto"), []
    for batch in STRICT.on(bundle.model.config.preprocess.canvas).batches(samples):
        scores += [d.pred_score for d in detector.detect([image for _, image in batch])]
    return np.array(scores), np.array([not sample.is_normal for sample in samples])


def theirs(name: str, dataset: Dataset, config: TrainConfig) -> float:
    """Image AUROC of a peer fitted on all of the few."""
    training = [replace(s, split="train") if s.split != "test" else s for s in dataset.samples]
    held = [replace(s, split="validation") for s in training if s.split == "train"][:2]
    everything = replace(dataset, samples=(*training, *held))
    result = outcome(PEERS[name], everything, config, seed=config.run.seed, group_by=None)
    bad = [not sample.is_normal for sample in everything.select("test")]
    return float(roc_auc_score(bad, result.scores))


def table(rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> str:
    """Lay out the means of each set over its draws."""
    lines = [
        "| set | draws | image AUROC | "
        + "".join(f"{name} | " for name in peers)
        + "recall / best ≤ 10 % | realised | covered | caught nothing | train s |",
        "|---" * (8 + len(peers)) + "|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]

        def mean(key: str, own: Sequence[dict[str, Any]] = own) -> float:
            return float(np.mean([row[key] for row in own]))

        nothing = sum(row["recall"] == 0 for row in own)
        lines.append(
            f"| {name} | {len(own)} | {mean('image_AUROC'):.3f} | "
            + "".join(f"{mean(peer):.3f} | " for peer in peers)
            + f"{mean('recall'):.3f} / {mean('reachable'):.3f} | {mean('realised'):.1%} | "
            f"{mean('covered'):.0%} | {nothing} | {mean('train_s'):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
