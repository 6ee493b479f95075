"""Detection quality on image sets: Maskline and its peers on the same images, in one table a set.

    python -m bench.quality ../data/magnetic_tile ../data/brain_mri --seeds 0,1,2 --methods all

Nothing is chosen by the test split: the recipe is fixed, and plan and calibration see normal images
and synthetic defects only. Peers get the canvas that Maskline's plan chose, the same backbone
weights and thresholds from the same held-out images. EfficientAD's teacher has no weights without
a download and stays random (`bench.trained_peers`). Boxes and regions: `bench.boxes`. Seconds are
this machine's, one method after the other.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly.config import from_dict
from anomaly.detector import Detector
from anomaly.device import usable_cores
from anomaly.heatmap import coarse_map
from anomaly.runtime import detector_of
from bench.figures import RATES, Outcome, bootstrap, figures
from bench.peers import PEERS, outcome
from bench.record import Record
from bench.sessions import independent
from training.calibrate import with_groups
from training.config import TrainConfig, load_recipe
from training.data import Dataset, Sample, open_dataset
from training.decoding import STRICT
from training.pipeline import Training, train_model
from training.plan import with_canvas
from training.progress import Progress

OURS = "Maskline"
_COLUMNS = {
    "image_AUROC": "image AUROC",
    "image_pAUROC": "partial (5 %)",
    "image_AP": "AP",
    "image_F1Max": "F1-max",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPRO": "AUPRO",
    "pixel_AP": "pixel AP",
    "pixel_F1Max": "pixel F1-max",
    "region_iou": "region IoU",
    "box_precision": "box precision (reported)",
    "box_recall_reported": "box recall (reported)",
    "box_recall": "box recall",
    "alarms_1%": "alarms at 1 %",
    "alarms_5%": "alarms at 5 %",
    "recall_1%": "recall at 1 %",
    "recall_5%": "recall at 5 %",
    "reachable_5%": "reachable at 5 %",
    "train_s": "train s",
    "ms_per_image": "ms/image",
    "model_mb": "MB",
}


def main() -> None:
    """Run the benchmark and print a table for each set."""
    options = _options()
    torch.set_num_threads(usable_cores())
    print(
        f"recipe {options.recipe}, {usable_cores()} cores, torch {torch.__version__}, {_device()}"
    )
    for data in options.data:
        _set(independent(open_dataset(data)), options.out / data.name, options)


def _set(dataset: Dataset, folder: Path, options: argparse.Namespace) -> None:
    name = dataset.root.name
    record = Record.open(folder / "figures.json", resume=options.resume)
    test = with_groups(dataset.select("test"), options.group_by)
    for seed in options.seeds:
        config = _recipe(options, seed)
        for method in (OURS, *options.methods):
            if record.has(method, seed):
                config = with_canvas(config, record.canvases[str(seed)])
                continue
            if method == OURS:
                result, config = ours(dataset, folder / f"seed{seed}", config, options)
            else:
                result = outcome(
                    PEERS[method], dataset, config, seed=seed, group_by=options.group_by
                )
            row = {
                "seed": seed,
                **figures(result, test),
                "interval": bootstrap(result.scores, test),
            }
            record.add(method, row, config.model.preprocess.canvas)
            print(f"{name} seed {seed} {method}: {_short(row)}", flush=True)
    canvases = sorted(set(record.canvases.values()))
    print(f"\n{name}: commit {record.commit}, {len(options.seeds)} seed(s), canvas {canvases} px\n")
    print(table(record.rows))
    promises = [promise(record.rows[OURS], rate) for rate in RATES]
    print("\n".join(["", *promises]), flush=True)


def ours(
    dataset: Dataset, folder: Path, config: TrainConfig, options: argparse.Namespace
) -> tuple[Outcome, TrainConfig]:
    """Train, calibrate and score Maskline; also the recipe with what was planned."""
    started = time.monotonic()
    bundle = train_model(
        dataset,
        folder,
        config,
        Training(group_by=options.group_by),
        progress=Progress(not options.quiet),
    )
    train_s = time.monotonic() - started
    detector = detector_of(bundle)
    assert bundle.calibration is not None
    detections, seconds = _detect(detector, dataset.select("test"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    outcome_ = Outcome(
        normal=bundle.calibration.images,
        peaks=bundle.calibration.peaks,
        scores=np.array([d.pred_score for d in detections]),
        maps=[d.anomaly_map for d in detections],
        placements=[d.placement for d in detections],
        costs={
            "train_s": train_s,
            "ms_per_image": 1000 * seconds / len(detections),
            "model_mb": size / 1e6,
        },
        coarse=[coarse_map(d) for d in detections],
    )
    return outcome_, from_dict(TrainConfig, bundle.card["training"]["recipe"])


def _recipe(options: argparse.Namespace, seed: int) -> TrainConfig:
    return load_recipe(options.recipe, [*options.set, f"run.seed={seed}"])


def _detect(detector: Detector, samples: Sequence[Sample]) -> tuple[list[Any], float]:
    detections: list[Any] = []
    seconds = 0.0
    for batch in STRICT.on(detector.model.config.preprocess.canvas).batches(samples):
        started = time.perf_counter()
        detections += detector.detect([image for _, image in batch])
        seconds += time.perf_counter() - started
    return detections, seconds


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Lay out one line for each method: mean ± deviation over seeds."""
    measured = {key for method_rows in rows.values() for row in method_rows for key in row}
    columns = {key: title for key, title in _COLUMNS.items() if key in measured}
    lines = [
        "| method | " + " | ".join(columns.values()) + " | 95 % of image AUROC |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for method, method_rows in rows.items():
        cells = [_cell(key, [row[key] for row in method_rows if key in row]) for key in columns]
        low, high = (statistics.mean(row["interval"][i] for row in method_rows) for i in (0, 1))
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {low:.3f}-{high:.3f} |")
    return "\n".join(lines)


def promise(rows: Sequence[dict[str, Any]], rate: float) -> str:
    """Say whether the false-alarm rate that was stated holds on the good test images."""
    groups = rows[0]["normal_groups"]
    if 1 / (groups + 1) > rate:
        return (
            f"At {rate:.0%} nothing can be promised: {groups} independent held-out normals certify "
            f"{1 / (groups + 1):.2%} at best."
        )
    sentences = []
    for row in rows:
        low, high = row[f"alarms_{rate:.0%}_interval"]
        verdict = "EXCEEDED" if low > rate else "holds" if high >= rate else "holds, fewer"
        sentences.append(f"{row[f'alarms_{rate:.0%}']:.3f} ({low:.3f}-{high:.3f}) {verdict}")
    return (
        f"At a stated {rate:.0%}, by seed (95 % interval by group): " + "; ".join(sentences) + "."
    )


def _cell(key: str, values: list[float]) -> str:
    if not values:
        return "-"
    digits = 0 if key == "train_s" else 1 if key in ("ms_per_image", "model_mb") else 3
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _short(row: dict[str, Any]) -> str:
    return json.dumps({k: round(row[k], 4) for k in _COLUMNS if k in row})


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="image sets in MVTec layout")
    parser.add_argument("--seeds", type=seeds_of, default=[0], help="comma-separated, default 0")
    parser.add_argument(
        "--methods",
        type=methods_of,
        default=[],
        help=f"peers, comma-separated, or 'all': {', '.join(PEERS)}",
    )
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    parser.add_argument("--group-by", help="as maskline calibrate has it")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument(
        "--resume", action="store_true", help="go on with what --out holds of this commit"
    )
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args()


def seeds_of(text: str) -> list[int]:
    """Parse `0,1,2`."""
    return [int(part) for part in text.split(",")]


def methods_of(text: str) -> list[str]:
    """Parse peers' names; `all` is every one."""
    if text == "all":
        return list(PEERS)
    names = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := set(names) - set(PEERS):
        raise argparse.ArgumentTypeError(f"unknown {sorted(unknown)}; known: {list(PEERS)}")
    return names


if __name__ == "__main__":
    main()
