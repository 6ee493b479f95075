"""An answer's mask, from the canvas to the caller's pixels: one run-length mask for each kind."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from supervised.types import Answer


@dataclass(frozen=True, slots=True)
class KindMask:
    """Where a kind is: `counts` is COCO's uncompressed RLE of (H, W), down the columns."""

    kind: str
    area_px: int
    size: tuple[int, int]
    counts: list[int]


def kind_masks(answer: Answer, classes: tuple[str, ...]) -> list[KindMask]:
    """Return the masks of the kinds that are there, in the caller's pixels, by class."""
    if answer.mask is None:
        return []
    pixels = on_source(answer)
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    masks = []
    for value in np.unique(pixels[pixels > 0]).tolist():
        mask = pixels == value
        counts: list[int] = run_lengths(mask.ravel(order="F")).tolist()
        masks.append(KindMask(classes[value - 1], int(mask.sum()), size, counts))
    return masks


def on_source(answer: Answer) -> NDArray[np.uint8]:
    """Return the mask in the caller's pixels, (H, W): the nearest place of the canvas decides."""
    assert answer.mask is not None
    top, left, bottom, right = answer.placement.box
    height, width = answer.placement.source
    part = np.ascontiguousarray(answer.mask[top:bottom, left:right])
    resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
    return resized.astype(np.uint8, copy=False)


def run_lengths(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of runs of equal flags; the first run is of False, if only of length 0."""
    changes = np.flatnonzero(flags[1:] != flags[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(flags)]])
    lengths = np.diff(edges).astype(np.int64)
    return np.concatenate([[0], lengths]) if len(flags) and flags[0] else lengths
