"""What each canvas costs and brings on image sets, beside the one that the plan would take.

    python -m bench.canvases ../data/pcb ../data/fabric --canvases 224,448

A model is trained, calibrated and tested on each canvas, whatever the plan says; one split
calibrates, without models of folds. Milliseconds are of a whole inspection of one image, the
canvases in turn. The test split decides nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly.bundle import Bundle, load_bundle
from anomaly.detector import Detector
from anomaly.metrics import partial_auroc, reachable_recall
from anomaly.runtime import detector_of
from bench.record import Record
from bench.sessions import independent
from bench.thirty import scored
from training.config import PlanConfig, TrainConfig, load_recipe
from training.data import Dataset, open_dataset
from training.decoding import STRICT
from training.pipeline import train_model
from training.plan import plan, with_canvas
from training.progress import QUIET

_TIMED = 30  # images a canvas


def main() -> None:
    """Print a line for each set and canvas, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--canvases", default="224,448")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/canvases"))
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    options = parser.parse_args()
    canvases = [int(part) for part in options.canvases.split(",")]
    config = load_recipe(options.recipe, ["crossfit.folds=0", *options.set])
    rows = []
    for path in options.data:
        folder = options.out / path.name
        record = Record.open(folder / "figures.json", resume=options.resume)
        dataset = independent(open_dataset(path))
        rows += of_set(dataset, config, record, canvases)
    print(table(rows))


def of_set(
    dataset: Dataset, config: TrainConfig, record: Record, canvases: Sequence[int]
) -> list[dict[str, Any]]:
    """Train and test on each canvas; returns a row for each."""
    folder = record.path.parent
    decided = plan(dataset.normal("train"), config, progress=QUIET)
    config, planned = decided.config, decided.canvas  # long pictures are cut in bands on each
    for canvas in canvases:
        if not record.has(str(canvas), config.run.seed):
            row = on_canvas(dataset, folder / str(canvas), with_canvas(config, canvas))
            record.add(str(canvas), {"seed": config.run.seed, **row}, planned)
            print(json.dumps({"set": dataset.root.name, "canvas": canvas, **row}), flush=True)
    detectors = {c: detector_of(load_bundle(folder / str(c)), "auto") for c in canvases}
    timed = milliseconds(detectors, dataset)
    return [
        {
            "set": dataset.root.name,
            "canvas": canvas,
            "planned": canvas == planned,
            "ms": timed[canvas],
            **record.rows[str(canvas)][-1],
        }
        for canvas in canvases
    ]


def on_canvas(dataset: Dataset, out: Path, config: TrainConfig) -> dict[str, Any]:
    """Train on the recipe's canvas and score the test split."""
    started = time.monotonic()
    bundle: Bundle = train_model(dataset, out, replace(config, plan=PlanConfig()), progress=QUIET)
    seconds = time.monotonic() - started
    scores, bad = scored(bundle, dataset.select("test"))
    calibration = bundle.calibration
    assert calibration is not None
    return {
        "image_AUROC": float(roc_auc_score(bad, scores)),
        "image_pAUROC": partial_auroc(bad, scores),
        "reachable": reachable_recall(bad, scores),
        "synthetic_AUROC": calibration.synthetic_auroc,
        "train_s": round(seconds),
    }


def milliseconds(detectors: dict[int, Detector], dataset: Dataset) -> dict[int, float]:
    """Median time of inspecting one decoded image, the canvases in turn."""
    images = [image for _, image in STRICT.images(dataset.select("test")[:_TIMED])]
    durations: dict[int, list[float]] = {canvas: [] for canvas in detectors}
    for image in images:
        for canvas, detector in detectors.items():
            started = time.perf_counter()
            detector.detect([image])
            durations[canvas].append(1000 * (time.perf_counter() - started))
    return {canvas: statistics.median(times) for canvas, times in durations.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out a line for each canvas; the plan's is marked."""
    lines = [
        "| set | canvas | image AUROC | partial (5 %) | reachable at 5 % | ms/image | train s |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        canvas = f"**{row['canvas']}**" if row["planned"] else str(row["canvas"])
        lines.append(
            f"| {row['set']} | {canvas} | {row['image_AUROC']:.3f} | {row['image_pAUROC']:.3f} | "
            f"{row['reachable']:.3f} | {row['ms']:.0f} | {row['train_s']:.0f} |"
        )
    best = {
        name: max(row["image_AUROC"] for row in rows if row["set"] == name)
        for name in dict.fromkeys(row["set"] for row in rows)
    }
    lost = [best[row["set"]] - row["image_AUROC"] for row in rows if row["planned"]]
    return "\n".join(
        [*lines, f"\nThe plan loses at most {np.max(lost):.3f} to a set's best canvas."]
    )


if __name__ == "__main__":
    main()
