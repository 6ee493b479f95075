"""Pictures of a model's hits and misses on drawn parts (`maskline demo`), for docs/METHOD.md.

    python -m bench.pictures maskline-demo/models/flange maskline-demo/parts --out docs/pictures

For each kind of defect the strongest and the weakest score, and the good part with the highest one:
the part with the defect outlined, and the map over it. Only drawn parts belong into the repository.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anomaly.bundle import load_bundle
from anomaly.heatmap import as_uint8, encode_jpeg, overlay
from anomaly.runtime import detector_of
from anomaly.types import Detection, RgbImage
from training.checkpoint import write_whole
from training.data import Sample, open_dataset, read_mask
from training.decoding import STRICT

_SIDE, _CAPTION = 224, 22


@dataclass(frozen=True, slots=True)
class _Scored:
    sample: Sample
    image: RgbImage
    detection: Detection


def main() -> None:
    """Write strongest.jpg and weakest.jpg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    scored = _score(options.model, options.data)
    kinds = sorted({picture.sample.label for picture in scored})
    options.out.mkdir(parents=True, exist_ok=True)
    for name, best in (("strongest", max), ("weakest", min)):
        selected = []
        for kind in kinds:
            of_kind = [picture for picture in scored if picture.sample.label == kind]
            pick = max if of_kind[0].sample.is_normal else best
            selected.append(pick(of_kind, key=lambda picture: picture.detection.pred_score))
        sheet = np.concatenate([_pair(picture) for picture in selected], axis=1)
        write_whole(options.out / f"{name}.jpg", encode_jpeg(sheet, 80))
        print(options.out / f"{name}.jpg", [picture.sample.path.name for picture in selected])


def _score(model: Path, data: Path) -> list[_Scored]:
    detector = detector_of(load_bundle(model))
    scored = []
    for batch in STRICT.on(detector.model.config.preprocess.canvas).batches(
        open_dataset(data).select("test")
    ):
        detections = detector.detect([image for _, image in batch])
        scored += [_Scored(s, image, d) for (s, image), d in zip(batch, detections, strict=True)]
    return scored


def _pair(picture: _Scored) -> np.ndarray:
    """The part with its defect outlined above the part with its map, and a caption."""
    plain = as_uint8(picture.image, 255).copy()
    mask = read_mask(picture.sample, picture.image.source_size).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(plain, outlines, -1, (0, 255, 0), 1)
    rows = [
        cv2.resize(p, (_SIDE, _SIDE)) for p in (plain, overlay(picture.image, picture.detection))
    ]
    ratio = picture.detection.pred_score / picture.detection.threshold
    verdict = "NG" if picture.detection.is_anomalous else "OK"
    caption = np.full((_CAPTION, _SIDE, 3), 255, np.uint8)
    text = f"{picture.sample.label}: {verdict} ({ratio:.2f})"
    cv2.putText(caption, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([caption, *rows])


if __name__ == "__main__":
    main()
