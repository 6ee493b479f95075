"""Files to scores, one record each; a file that cannot be read is a record, not the end."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomaly.bundle import load_bundle
from anomaly.detector import Detector
from anomaly.device import choose_device
from anomaly.errors import ImageError
from anomaly.heatmap import encode_jpeg, overlay
from anomaly.image import EXTENSIONS, decode_image
from anomaly.types import Detection, RgbImage
from training.checkpoint import write_whole
from training.errors import DataError


def score_files(
    model: Path, images: Sequence[Path], *, heatmaps: Path | None = None, device: str = "auto"
) -> Iterator[dict[str, Any]]:
    """Score files, or the images of folders, one by one: a record each, in order.

    Records have `status` `ok` or `error`. With `heatmaps`, `<stem>_heatmap.jpg` is written for each.
    """
    detector = load_bundle(model).detector(choose_device(device))
    if heatmaps is not None:
        heatmaps.mkdir(parents=True, exist_ok=True)
    for path in _expand(images):
        try:
            image = decode_image(path.read_bytes())
        except ImageError as error:
            yield {"image": str(path), "status": "error", "code": error.code, "detail": str(error)}
            continue
        except OSError as error:
            yield {
                "image": str(path),
                "status": "error",
                "code": "file_unreadable",
                "detail": str(error),
            }
            continue
        [detection] = detector.detect([image])
        if heatmaps is not None:
            _write_overlay(heatmaps / f"{path.stem}_heatmap.jpg", image, detection, detector)
        yield _record(path, detection)


def _record(path: Path, detection: Detection) -> dict[str, Any]:
    return {
        "image": str(path),
        "status": "ok",
        "verdict": "NG" if detection.is_anomalous else "OK",
        "score": detection.pred_score,
        "p_value": detection.p_value,
        "threshold": detection.threshold,
        "score_std": detection.score_std,
        "regions": [asdict(region) for region in detection.regions],
    }


def _expand(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"no images in {path}; files read: {', '.join(EXTENSIONS)}")
        yield from found


def _write_overlay(path: Path, image: RgbImage, detection: Detection, detector: Detector) -> None:
    white_level = detector.model.config.preprocess.white_level
    write_whole(path, encode_jpeg(overlay(image, detection, white_level)))
