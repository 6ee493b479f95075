"""Few normal images, with and without pretraining on other products; one model for several.

    python -m bench.fewshot ../data/magnetic_tile ../data/brain_mri ../data/pcb --shots 4,16,64

Of each set, so many training images at random train a model from scratch, and one that starts from
an autoencoder trained on the normal images of the *other* sets alone. Then one model is trained on
all sets together and calibrated for each. Calibration sees the set's validation normals as always;
tests are scored once.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.sessions import independent
from training.config import TrainConfig, load_recipe
from training.data import Dataset, normal_images, open_dataset
from training.pipeline import (
    Recalibration,
    Training,
    calibrate_folder,
    evaluate_model,
    train_model,
)
from training.progress import QUIET


def main() -> None:
    """Print both tables."""
    options = _options()
    config = load_recipe(options.recipe, options.set)
    sets = [independent(open_dataset(path)) for path in options.data]
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.of or [dataset.root.name for dataset in sets]
    rows = [
        row
        for dataset in sets
        if options.shots and dataset.root.name in names
        for row in few(dataset, sets, config, options)
    ]
    if rows:
        print(few_table(rows, options.shots), flush=True)
    if not options.of:
        print(together_table(together(sets, config, options)), flush=True)


def few(
    dataset: Dataset, sets: Sequence[Dataset], config: TrainConfig, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train on few images of a set, from scratch and from the others."""
    name, rows = dataset.root.name, []
    other_sets = joined([dataset_ for dataset_ in sets if dataset_ is not dataset])
    base = options.out / f"without-{name}"
    if not base.is_dir():  # from a run before
        # Only its autoencoder is wanted: the memory and the head belong to a product.
        scoring = replace(config.model.scoring, families=("masked",))
        alone = replace(config, model=replace(config.model, scoring=scoring))
        train_model(other_sets, base, alone, Training(calibration=None), progress=QUIET)
    shorter = replace(config, optimiser=replace(config.optimiser, steps=options.adapt_steps))
    for shots in options.shots:
        few_images = subset(dataset, shots, options.seed)
        for start, recipe in ((None, config), (base, shorter)):
            out = options.out / f"{name}-{shots}-{'scratch' if start is None else 'adapted'}"
            started = time.monotonic()
            train_model(few_images, out, recipe, Training(init=start), progress=QUIET)
            seconds = time.monotonic() - started
            figures, _ = evaluate_model(out, dataset, progress=QUIET)
            row = {
                "set": name,
                "shots": shots,
                "adapted": start is not None,
                "image_AUROC": figures["image_AUROC"],
                "train_s": round(seconds),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def together(
    sets: Sequence[Dataset], config: TrainConfig, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Train one model on all sets, calibrate it for each and test each."""
    model = options.out / "together"
    train_model(joined(sets), model, config, Training(calibration=None), progress=QUIET)
    rows = []
    for dataset in sets:
        folder = options.out / f"together-{dataset.root.name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        calibrate_folder(folder, normal_images(dataset.root), Recalibration(), progress=QUIET)
        figures, _ = evaluate_model(folder, dataset, progress=QUIET)
        rows.append({"set": dataset.root.name, "image_AUROC": figures["image_AUROC"]})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def joined(sets: Sequence[Dataset]) -> Dataset:
    """Put the training normals of several sets into one."""
    samples = [sample for dataset in sets for sample in dataset.normal("train")]
    return Dataset(Path("+".join(dataset.root.name for dataset in sets)), tuple(samples))


def subset(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """Keep so many training images, drawn at random; the other splits stay."""
    train = dataset.normal("train")
    order = np.random.default_rng(seed).permutation(len(train))[:shots]
    few_train = [train[i] for i in sorted(order)]
    not_train = [s for s in dataset.samples if s.split != "train"]
    return Dataset(dataset.root, (*few_train, *not_train))


def few_table(rows: Sequence[dict[str, Any]], shots: Sequence[int]) -> str:
    """Lay out image AUROC: a line for each set and start, a column for each number of images."""
    lines = [
        "\n| set | start | " + " | ".join(f"{n} normals" for n in shots) + " | train s |",
        "|---" * (len(shots) + 3) + "|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        for adapted in (False, True):
            matching = [r for r in rows if (r["set"], r["adapted"]) == (name, adapted)]
            cells = " | ".join(f"{row['image_AUROC']:.3f}" for row in matching)
            seconds = " / ".join(str(row["train_s"]) for row in matching)
            start = "the other sets" if adapted else "scratch"
            lines.append(f"| {name} | {start} | {cells} | {seconds} |")
    return "\n".join(lines)


def together_table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out the one model's image AUROC on each set."""
    lines = ["\n| set | one model for all, calibrated for each |", "|---|---|"]
    return "\n".join([*lines, *(f"| {row['set']} | {row['image_AUROC']:.3f} |" for row in rows)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument(
        "--shots", type=lambda text: [int(n) for n in text.split(",") if n], default=[4, 16, 64]
    )
    parser.add_argument(
        "--of", action="append", help="few images of this set alone; not all together"
    )
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--adapt-steps", type=int, default=150)
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fewshot"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
