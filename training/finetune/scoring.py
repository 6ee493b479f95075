"""Files to what a model of labels says of them: one record each."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomaly.device import choose_device
from anomaly.errors import ImageError, ScoreNotFinite
from anomaly.image import decode_image
from supervised.bundle import load_supervised
from supervised.masks import kind_masks
from supervised.predictor import Predictor
from supervised.types import Answer
from training.scoring import expand


def label_files(
    model: Path, images: Sequence[Path], *, device: str = "auto", done: Container[str] = ()
) -> Iterator[dict[str, Any]]:
    """Ask a model of labels about files, or the images of folders: a record each, in order.

    Records have `status` `ok` or `error`, as those of `training.scoring.score_files` have.
    """
    predictor = Predictor(load_supervised(model), choose_device(device))
    for path in expand(images):
        if str(path) not in done:
            yield {"image": str(path), **_record(predictor, path)}


def label_line(row: dict[str, Any]) -> str:
    """Say in one line what a record holds: the likeliest kind, or how many of which are there."""
    if row["classes"]:
        likeliest = row["classes"][0]
        return f"{likeliest['kind']:<14}  p={likeliest['probability']:.4f}"
    kinds = [part["kind"] for part in (*row["boxes"], *row["masks"])]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing"


def _record(predictor: Predictor, path: Path) -> dict[str, Any]:
    try:
        image = decode_image(path.read_bytes(), canvas=predictor.config.encoder.preprocess.canvas)
        (answer,) = predictor.predict([image])
    except (ImageError, ScoreNotFinite) as error:
        return {"status": "error", "code": error.code, "detail": str(error)}
    except OSError as error:
        return {"status": "error", "code": "file_unreadable", "detail": str(error)}
    return {"status": "ok", "task": predictor.config.task, **_parts(answer, predictor)}


def _parts(answer: Answer, predictor: Predictor) -> dict[str, Any]:
    return {
        "classes": [asdict(score) for score in answer.classes],
        "boxes": [asdict(box) for box in answer.boxes],
        "masks": [asdict(mask) for mask in kind_masks(answer, predictor.config.classes)],
    }
