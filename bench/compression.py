"""What a camera that compresses more does, and whether training should vary it.

`python -m bench.compression DATA`. Three models of one recipe: trained and calibrated on the images
as they are; trained on them and on copies that were compressed at random; also calibrated on such
copies (a part and its copy count once). Each scores the test split as it is and recompressed.
Qualities are fixed beforehand and nothing is tuned: the question is how many good parts are
rejected.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from anomaly.detector import Detector
from anomaly.heatmap import encode_jpeg
from anomaly.image import decode_image
from anomaly.runtime import detector_of
from training.calibrate import calibrate_model
from training.config import load_recipe
from training.data import Sample, open_dataset
from training.pipeline import train_model

_VARIED = (30, 95)  # JPEG qualities of copies
_RATE = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one quality of the test split; `quality` None is as it is."""

    model: str
    quality: int | None
    auroc: float
    false_alarms: float
    recall: float
    median_good: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--qualities", default="95,80,50,30")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    qualities = [None, *(int(text) for text in options.qualities.split(","))]
    with TemporaryDirectory() as folder:
        detectors = models(options.data, Path(folder), options.recipe, options.overrides)
        test = open_dataset(options.data).select("test")
        print(
            f"| model | JPEG quality | image AUROC | false alarms, stated {_RATE:.0%} | recall | "
        )
        print("|---|---|---|---|---|")
        for name, detector in detectors.items():
            for quality in qualities:
                print(line(row(name, detector, test, quality)), flush=True)


def models(data: Path, folder: Path, recipe: str, overrides: Sequence[str]) -> dict[str, Detector]:
    """Train twice and calibrate three times; detectors by what they know."""
    dataset = open_dataset(data)
    plain, varied = (
        train_model(dataset, folder / name, load_recipe(recipe, [*overrides, *more]))
        for name, more in (("as-is", []), ("varied", [f"augment.compression={list(_VARIED)}"]))
    )
    on_plain = calibrate_model(varied.model, dataset.normal("validation"))
    return {
        "as it is": detector_of(plain, "auto"),
        "trained on compressed copies too": detector_of(varied.calibrated(on_plain), "auto"),
        "trained and calibrated on them too": detector_of(varied, "auto"),
    }


def row(name: str, detector: Detector, test: Sequence[Sample], quality: int | None) -> Row:
    """Score the test split at one quality."""
    canvas = detector.model.config.preprocess.canvas
    scores = []
    for sample in tqdm(test, desc=f"{name}, {quality}", leave=False):
        data = sample.path.read_bytes()
        if quality is not None:
            data = encode_jpeg(decode_image(data).pixels, quality)
        [detection] = detector.detect([decode_image(data, canvas=canvas)])
        scores.append(detection.pred_score)
    values = np.array(scores)
    bad = np.array([not sample.is_normal for sample in test])
    rejected = values > detector.calibration.images.threshold(_RATE)
    return Row(
        name,
        quality,
        float(roc_auc_score(bad, values)),
        float(rejected[~bad].mean()),
        float(rejected[bad].mean()),
        float(np.median(values[~bad])),
    )


def line(row_: Row) -> str:
    """Lay one row out as Markdown."""
    quality = "as it is" if row_.quality is None else str(row_.quality)
    return (
        f"| {row_.model} | {quality} | {row_.auroc:.3f} "
        f"| {row_.false_alarms:.1%} | {row_.recall:.1%} |"
    )


if __name__ == "__main__":
    main()
