"""Small drawn sets of labels."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.shapes import Mask, Outlines, Runs

SIZE = (24, 32)  # (H, W)


def draw(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write a picture of (H, W) whose bytes depend on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    assert cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))
    return path


def block(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> Mask:
    """A mask of one rectangle."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def masked(kind: str, mask: Mask) -> Instance:
    return Instance.of(kind, Runs.of(mask))


def ring(kind: str, points: Sequence[Sequence[float]]) -> Instance:
    return Instance.of(kind, Outlines((np.array(points, float),)))


def image(
    folder: Path, name: str, *instances: Instance, split: str = "", **more: object
) -> LabelledImage:
    path = draw(folder / name, seed=len(name) + sum(name.encode()))
    return LabelledImage(path, name, SIZE, instances, split=split, **more)  # type: ignore[arg-type]


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    """Masks with a hole and two parts, a polygon, a kind in two spellings, and good parts."""
    holed = block(2, 3, 9, 12)
    holed[5:8, 6:9] = False
    parts = block(1, 1, 4, 4) | block(15, 20, 6, 9)
    folder = tmp_path / "drawn"
    return LabelSet(
        (
            image(folder, "a.png", masked("scratch", holed), split="test"),
            image(folder, "lot 1/b.png", masked("Dent", parts), split="test"),
            image(folder, "c.png", ring("dent", [[2, 2], [20.5, 3], [9, 18]]), split="test"),
            image(folder, "d.png", split="train"),
            image(folder, "e.png", split="train"),
            image(folder, "f.png", split="test"),
        )
    )
