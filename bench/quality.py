"""Detection quality on one image set: train, calibrate, evaluate, once for each seed, in one table.

    python -m bench.quality ../data/magnetic_tile --seeds 0,1,2

Nothing is chosen by the test split: the recipe is fixed, and the calibration sees held-out normal
images and synthetic defects only. Wall-clock seconds are this machine's.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from training.config import load_recipe
from training.data import Dataset, open_dataset
from training.evaluate import save_figures
from training.pipeline import evaluate_model, train_model

_COLUMNS = {
    "image_AUROC": "image AUROC",
    "image_AP": "image AP",
    "image_F1Max": "image F1max",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO@0.3",
    "stated_false_alarm_rate": "false alarms stated",
    "realised_false_alarm_rate": "false alarms realised",
    "realised_false_alarm_rate_at_5_percent": "realised at 5 %",
    "recall": "recall",
    "recall_at_5_percent": "recall at 5 %",
    "train_s": "train s",
    "calibrate_s": "calibrate s",
    "ms_per_image": "ms/image",
    "model_mb": "model MB",
}


def main() -> None:
    """Run the benchmark and print its table."""
    options = _options()
    dataset = open_dataset(options.data)
    rows = []
    for seed in options.seeds:
        row = run(dataset, options.out / options.data.name / f"seed{seed}", seed, options)
        rows.append(row)
        print(f"\nseed {seed}: {json.dumps({k: row.get(k) for k in _COLUMNS})}", flush=True)
    print(f"\n{options.data.name}, recipe {options.recipe}, seeds {options.seeds}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {_device()}\n")
    print(table(rows))
    save_figures({"runs": rows}, options.out / options.data.name / "figures.json")


def run(dataset: Dataset, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, calibrate and evaluate once."""
    config = load_recipe(options.recipe, [*options.set, f"run.seed={seed}"])
    started = time.monotonic()
    bundle = train_model(
        dataset, folder, config, false_alarm_rate=options.false_alarm_rate, quiet=options.quiet
    )
    both_s = time.monotonic() - started
    figures, _ = evaluate_model(folder, dataset, report=folder.with_suffix(".report"))
    train_s = bundle.card["training"]["seconds"]
    size = sum(path.stat().st_size for path in folder.iterdir())
    return figures | {
        "seed": seed,
        "train_s": train_s,
        "calibrate_s": round(both_s - train_s, 1),
        "model_mb": round(size / 1e6, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out one column for each seed, then mean and standard deviation."""
    seeds = [f"seed {row['seed']}" for row in rows]
    lines = ["| figure | " + " | ".join([*seeds, "mean", "sd"]) + " |"]
    lines.append("|---" * (len(rows) + 3) + "|")
    for key, title in _COLUMNS.items():
        values = [row[key] for row in rows if key in row]
        if len(values) == len(rows):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells = [f"{v:.3f}" for v in [*values, statistics.mean(values), spread]]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="image set in MVTec layout")
    parser.add_argument("--seeds", type=seeds_of, default=[0], help="comma-separated, default 0")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--false-alarm-rate", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args()


def seeds_of(text: str) -> list[int]:
    """Parse `0,1,2`."""
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
