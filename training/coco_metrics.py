"""COCO's figures of boxes: AP over overlaps of .50 to .95, AP at .50 and .75, AR.

Computed by faster-coco-eval, which the extra `coco` installs. It knows neither who answered nor
how: a fine-tuned detector and regions with kinds are measured alike.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.boxes import Boxes
from training.errors import DataError

# What `COCOeval.summarize` puts first: all areas, up to 100 boxes of an image.
_PLACES = {"AP": 0, "AP50": 1, "AP75": 2, "AR": 8}
_SIDE = 1 << 20  # an image's size plays no part in figures of boxes


def coco_figures(truth: Sequence[Boxes], answers: Sequence[Boxes]) -> dict[str, float]:
    """Compare answers with what was labelled, image by image; nothing where nothing was.

    Figures are in [0, 1], averaged over kinds that were labelled. Of an image's answers the surest
    100 of a kind count. Raises `DataError` where lengths differ or the library is missing.
    """
    if len(truth) != len(answers):
        raise DataError(f"{len(answers)} answers for {len(truth)} images; want one for each")
    kinds = sorted({kind for boxes in truth for kind in boxes.kinds})
    if not kinds:
        return {}
    coco, evaluation = _library()
    labelled = coco(_labelled(truth, kinds))
    rows = _answered(answers, kinds)
    if not len(rows):
        return dict.fromkeys(_PLACES, 0.0)
    run = evaluation(labelled, labelled.loadRes(rows), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: max(0.0, float(run.stats[place])) for name, place in _PLACES.items()}


def coco_by_kind(truth: Sequence[Boxes], answers: Sequence[Boxes]) -> dict[str, dict[str, float]]:
    """Return the figures of every labelled kind by itself."""
    kinds = sorted({kind for boxes in truth for kind in boxes.kinds})
    return {
        kind: coco_figures([_only(b, kind) for b in truth], [_only(b, kind) for b in answers])
        for kind in kinds
    }


def _only(boxes: Boxes, kind: str) -> Boxes:
    keep = np.array([name == kind for name in boxes.kinds], bool)
    return Boxes(boxes.corners[keep], (kind,) * int(keep.sum()), boxes.scores[keep])


def _labelled(truth: Sequence[Boxes], kinds: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, boxes in enumerate(truth, start=1):
        for (x1, y1, x2, y2), kind in zip(boxes.corners.tolist(), boxes.kinds, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": kinds.index(kind) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "images": [{"id": i + 1, "width": _SIDE, "height": _SIDE} for i in range(len(truth))],
        "categories": [{"id": i + 1, "name": kind} for i, kind in enumerate(kinds)],
        "annotations": annotations,
    }


def _answered(answers: Sequence[Boxes], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """List what was answered; kinds that nobody labelled cannot count."""
    places = {kind: i + 1 for i, kind in enumerate(kinds)}
    return [
        {
            "image_id": image,
            "category_id": places[kind],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for image, boxes in enumerate(answers, start=1)
        for (x1, y1, x2, y2), kind, score in zip(
            boxes.corners.tolist(), boxes.kinds, boxes.scores, strict=True
        )
        if kind in places
    ]


def check_installed() -> None:
    """Raise `DataError` where the library is missing: better before a training than after."""
    _library()


def _library() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise DataError(
            "figures of boxes need faster-coco-eval; install it with: pip install 'maskline[coco]'"
        ) from error
    return COCO, COCOeval_faster
