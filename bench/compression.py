"""What a camera that compresses more does, and whether training should vary it.

`python -m bench.compression DATA`. Three models of one recipe: trained and calibrated on the images as they
are; trained on them and on copies that were compressed at random; trained so and calibrated on such copies as
well (a part and its copy count once). Each scores the test split as it is and compressed anew. Qualities are
fixed beforehand and nothing is tuned: what is looked for is how many good parts are rejected.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from anomaly.bundle import Bundle, load_bundle
from anomaly.detector import Detector
from anomaly.image import decode_image
from anomaly.types import RgbImage
from training.calibrate import calibrate_model
from training.config import load_recipe
from training.data import Sample, open_dataset
from training.pipeline import Training, train_model

_VARIED = (30, 95)  # JPEG qualities of copies, drawn evenly
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
    config = load_recipe(recipe, overrides)
    dataset = open_dataset(data)
    plain = list(dataset.normal("train"))
    held = list(dataset.normal("validation"))
    held_both = held + compressed(held, folder / "held")
    both = plain + compressed(plain, folder / "plain")

    def trained(samples: Sequence[Sample], name: str) -> Bundle:
        manifest = folder / f"{name}.jsonl"
        rows = [{"image": str(one.path.absolute()), "session": one.session} for one in samples]
        rows += [{"image": str(held[0].path.absolute()), "split": "validation"}]
        manifest.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        out = folder / name
        train_model(open_dataset(manifest), out, config, Training(wanted=None))
        return load_bundle(out)

    as_is, varied = trained(plain, "as-is"), trained(both, "varied")

    def detector(bundle: Bundle, normals: Sequence[Sample]) -> Detector:
        return bundle.calibrated(calibrate_model(bundle.model, normals)).detector("auto")

    return {
        "as it is": detector(as_is, held),
        "trained on compressed copies too": detector(varied, held),
        "trained and calibrated on them too": detector(varied, held_both),
    }


def compressed(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Write a copy of each image at a random quality; it stays in its part's session."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    copies = []
    for number, sample in enumerate(samples):
        quality = int(generator.integers(*_VARIED, endpoint=True))
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(recompressed(decode_image(sample.path.read_bytes()), quality))
        copies.append(Sample(path, sample.label, sample.split, sample.session))
    return copies


def recompressed(image: RgbImage, quality: int) -> bytes:
    """Encode an 8-bit image as a JPEG of this quality."""
    bgr = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def row(name: str, detector: Detector, test: Sequence[Sample], quality: int | None) -> Row:
    """Score the test split at one quality."""
    canvas = detector.model.config.preprocess.canvas
    scores = []
    for sample in tqdm(test, desc=f"{name}, {quality}", leave=False):
        data = sample.path.read_bytes()
        if quality is not None:
            data = recompressed(decode_image(data), quality)
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


def line(one: Row) -> str:
    """Lay one row out as Markdown."""
    quality = "as it is" if one.quality is None else str(one.quality)
    return (
        f"| {one.model} | {quality} | {one.auroc:.3f} | {one.false_alarms:.1%} | {one.recall:.1%} |"
    )


if __name__ == "__main__":
    main()
