"""Scores of parts that people found to be defective."""

from pathlib import Path

import torch

from anomaly.bundle import Bundle
from anomaly.device import choose_device
from anomaly.runtime import detector_of
from training.decoding import STRICT, Decoding
from training.progress import SHOWN, Progress
from training.samples import Sample
from training.scoring import expand


@torch.inference_mode()
def confirmed_scores(
    bundle: Bundle,
    folder: Path,
    *,
    camera: str | None = None,
    decoding: Decoding = STRICT,
    device: str = "auto",
    progress: Progress = SHOWN,
) -> list[float]:
    """Score every image of a folder and below, by the camera's calibration if it has its own.

    Raises `DataError` where there is none, or where one cannot be read and none is to be skipped.
    """
    samples = [Sample(path, "defect", "test", str(path)) for path in expand([folder])]
    detector, scores = detector_of(bundle, choose_device(device)), []
    with progress.bar("confirmed defects", total=len(samples), unit="image") as bar:
        for batch in decoding.on(bundle.model.config.preprocess.canvas).batches(samples):
            images = [image for _, image in batch]
            detections = detector.detect(images, [camera] * len(images))
            scores += [detection.pred_score for detection in detections]
            bar.update(len(batch))
    return scores
