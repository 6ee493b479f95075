"""How soon a fading lamp and a new defect are found: `python -m bench.drift DATA MODEL`.

The good test images come again and again, 500 of them: once with a lamp that loses a fifth of its
light, once as they are with a share of parts that have one kind of defect, once as they are. The
table says when the watch finds it, and when the false alarms of the last hundred parts have
doubled.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from anomaly.bundle import load_bundle
from anomaly.detector import Detector
from anomaly.drift import Finding, Watch
from anomaly.input_statistics import input_statistics
from anomaly.preprocess import place
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from training.data import open_dataset
from training.decoding import STRICT

_BATCH = 8
_LAST = 100


@dataclass(frozen=True, slots=True)
class Run:
    """What happened in one run of parts."""

    finding: Finding
    found_at: int | None
    doubled_at: int | None
    alarms: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--parts", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.1, help="of parts with the new defect")
    options = parser.parse_args()
    detector = detector_of(load_bundle(options.model))
    canvas, test = (
        detector.model.config.preprocess.canvas,
        open_dataset(options.data).select("test"),
    )
    images: dict[str, list[RgbImage]] = {}
    for batch in STRICT.on(canvas).batches(test):
        for sample, image in batch:
            images.setdefault("good" if sample.is_normal else sample.label, []).append(image)
    good, parts = images.pop("good"), options.parts
    print("| parts | finding | found at part | false alarms doubled at part | rejected |")
    print("|---|---|---|---|---|")
    rows: dict[str, Callable[[], Iterator[RgbImage]]] = {
        "as they are": _with(good, [], 0, parts),
        "a lamp that loses 20 %": lambda: fading(drawn(good, [], 0, parts), parts),
    }
    rows |= {
        f"{options.share:.0%} with {kind}": _with(good, bad, options.share, parts)
        for kind, bad in sorted(images.items())
    }
    for name, sequence in rows.items():
        print(row(name, run(detector, sequence(), parts)), flush=True)


def _with(
    good: list[RgbImage], bad: list[RgbImage], share: float, parts: int
) -> Callable[[], Iterator[RgbImage]]:
    """Half of the parts unchanged, then a share of bad ones."""
    half = parts // 2

    def sequence() -> Iterator[RgbImage]:
        yield from drawn(good, [], 0, half)
        yield from drawn(good, bad, share, parts - half)

    return sequence


def drawn(
    good: list[RgbImage], bad: list[RgbImage], share: float, parts: int
) -> Iterator[RgbImage]:
    """Draw parts with replacement, a share of them bad."""
    generator = np.random.default_rng(0)
    for _ in range(parts):
        pool = bad if generator.uniform() < share else good
        yield pool[int(generator.integers(len(pool)))]


def fading(images: Iterator[RgbImage], parts: int, loss: float = 0.2) -> Iterator[RgbImage]:
    """Take light away, evenly until `loss` is gone at the last part."""
    for number, image in enumerate(images):
        dimmed = image.pixels * (1 - loss * number / parts)
        deep = image.pixels.dtype == np.uint16
        pixels = dimmed.astype(np.uint16) if deep else dimmed.astype(np.uint8)
        yield RgbImage(pixels, image.sent)


def run(detector: Detector, images: Iterator[RgbImage], parts: int) -> Run:
    """Inspect and watch a run of parts."""
    watch, calibration = Watch(detector.calibration), detector.calibration
    rate = max(calibration.false_alarm_rate, calibration.images.smallest_rate)
    rejected: list[bool] = []
    found_at = doubled_at = None
    waiting: list[RgbImage] = []
    for number, image in enumerate(tqdm(images, total=parts)):
        waiting.append(image)
        if len(waiting) < _BATCH and number < parts - 1:
            continue
        for part, detection in zip(waiting, detector.detect(waiting), strict=True):
            inputs = input_statistics(place(part, detector.model.config.preprocess)[0])
            watch.add(detection.pred_score, inputs, detection.embedding, datetime.now(UTC))
            rejected.append(detection.is_anomalous)
            if found_at is None and watch.finding != "none":
                found_at = len(rejected)
            last = rejected[-_LAST:]
            if doubled_at is None and len(last) == _LAST and np.mean(last) >= 2 * rate:
                doubled_at = len(rejected)
        waiting = []
    return Run(watch.finding, found_at, doubled_at, float(np.mean(rejected)))


def row(name: str, run_: Run) -> str:
    """Lay out one run."""
    cells = [run_.finding, run_.found_at or "-", run_.doubled_at or "-", f"{run_.alarms:.1%}"]
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
