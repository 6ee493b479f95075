"""Line-scan strips of 8192 × 256 px: are holes of 10 px and cracks of 2 × 120 px found, and boxed?

    python -m bench.strips runs/strips --canvases 672,1344

Two webs, textured and smooth, are drawn into the folder: 48 strips to train on, 24 to calibrate,
and a test split of 24 good ones and eight of each defect. A model is trained on each canvas at a
stated 5 %. The cost is of a whole inspection of a decoded strip.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly.bundle import load_bundle
from anomaly.calibration import CalibrationSettings
from anomaly.runtime import detector_of
from anomaly.types import Detection
from training.config import load_recipe
from training.data import open_dataset
from training.decoding import STRICT
from training.pipeline import Training, train_model

HEIGHT, LENGTH = 256, 8192
DEFECTS = {"hole": (10, 10), "crack": (120, 2)}  # height, width
_SPLITS = {"train": (48, 0), "validation": (24, 500), "test": (24, 1000)}  # strips, first seed
_BAD = 8
_RATE = 0.05


def main() -> None:
    """Draw the strips, train on each canvas, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--canvases", default="672")
    parser.add_argument("--webs", default="textured,smooth")
    parser.add_argument("--set", action="append", default=[], help="override of the recipe")
    options = parser.parse_args()
    rows = []
    for web in options.webs.split(","):
        data = write_strips(options.folder / web, is_textured=web == "textured")
        for canvas in map(int, options.canvases.split(",")):
            changes = ["crossfit.folds=0", f"plan.canvases=[{canvas}]", *options.set]
            row = {"web": web, "canvas": canvas, **figures(data, options.folder, changes)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(table(rows))


def strip(seed: int, *, is_textured: bool, length: int = LENGTH) -> np.ndarray:
    """Draw a good strip, (HEIGHT, length) float32 in [0, 255]; light drifts along each."""
    generator = np.random.default_rng(seed)
    light = generator.normal(0, 60, (HEIGHT // 16, length // 16)).astype(np.float32)
    grain = generator.normal(0, 60, (HEIGHT, length)).astype(np.float32)
    web = 140 + 0.35 * cv2.resize(light, (length, HEIGHT), interpolation=cv2.INTER_CUBIC)
    if is_textured:
        return np.asarray(web + 4 * cv2.GaussianBlur(grain, (0, 0), 5), np.float32)
    return np.asarray(web + 0.05 * grain, np.float32)


def write_strips(folder: Path, *, is_textured: bool) -> Path:
    """Write the set with its masks, as JPEG of quality 92."""
    for split, (count, first) in _SPLITS.items():
        for index in range(count):
            web = strip(first + index, is_textured=is_textured)
            _write(folder / split / "good" / f"{index:03d}.jpg", web)
    for number, (kind, (height, width)) in enumerate(DEFECTS.items()):
        for index in range(_BAD):
            web = strip(2000 + 1000 * number + index, is_textured=is_textured)
            mask = np.zeros_like(web)
            top, left = 60 + 12 * index, 500 + 900 * index
            web[top : top + height, left : left + width] = 10
            mask[top : top + height, left : left + width] = 255
            _write(folder / "test" / kind / f"{index:03d}.jpg", web)
            _write(folder / "ground_truth" / kind / f"{index:03d}.png", mask)
    return folder


def _write(file: Path, grey: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = grey.clip(0, 255).astype(np.uint8)
    if not cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"cannot write {file}")


def figures(data: Path, folder: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Train and inspect the test split: alarms, recall, how large the boxes are, and the cost."""
    dataset, out = open_dataset(data), folder / "model"
    started = time.monotonic()
    how = Training(calibration=CalibrationSettings(_RATE))
    train_model(dataset, out, load_recipe("default", changes), how)
    seconds = time.monotonic() - started
    detector = detector_of(load_bundle(out))
    times, answers = [], []
    for sample, image in STRICT.images(dataset.select("test")):
        began = time.perf_counter()
        [detection] = detector.detect([image])
        times.append(1000 * (time.perf_counter() - began))
        answers.append((sample.label, detection))
    good = [detection.is_anomalous for label, detection in answers if label == "good"]
    row: dict[str, Any] = {"false_alarms": float(np.mean(good))}
    for kind, (height, width) in DEFECTS.items():
        bad = [detection for label, detection in answers if label == kind]
        row[f"{kind}_recall"] = float(np.mean([detection.is_anomalous for detection in bad]))
        row[f"{kind}_box"] = box_ratio(bad, height * width)
    return row | {"ms": statistics.median(times), "train_s": round(seconds)}


def box_ratio(detections: Sequence[Detection], area: int) -> float | None:
    """Median area of the strongest box as a multiple of the defect's; None where there is none."""
    boxes = [detection.regions[0].bbox for detection in detections if detection.regions]
    return statistics.median(box[2] * box[3] / area for box in boxes) if boxes else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out a line for each web and canvas."""
    lines = [
        "| web | canvas | false alarms | holes found | box / hole | cracks found | box / crack "
        "| ms a strip | train s |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        columns = " | ".join(
            f"{row[f'{kind}_recall']:.2f} | {_times(row[f'{kind}_box'])}" for kind in DEFECTS
        )
        lines.append(
            f"| {row['web']} | {row['canvas']} | {row['false_alarms']:.1%} | {columns} | "
            f"{row['ms']:.0f} | {row['train_s']} |"
        )
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f}"


if __name__ == "__main__":
    main()
