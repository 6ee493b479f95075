from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly.bundle import Bundle, save_bundle
from tests.conftest import normal_pixels, png
from tests.supervised.conftest import pretrained


@pytest.fixture(scope="session")
def mae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose encoder nobody trained."""
    folder = tmp_path_factory.mktemp("mae") / "mae"
    save_bundle(Bundle("mae", pretrained(class_token=True), None, {}), folder, "v1")
    return folder


def marked(kind: str, seed: int) -> np.ndarray:
    """A part with a mark of its kind: two kinds can be told by the mark's colour and place."""
    pixels = normal_pixels(seed, (64, 64))
    if kind == "dent":
        cv2.circle(pixels, (20 + seed % 5, 20), 9, (250, 30, 30), -1)
    elif kind == "crack":
        cv2.rectangle(pixels, (34, 30 + seed % 5), (60, 44), (20, 40, 250), -1)
    return pixels


def write_kinds(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Write `split/kind` folders of marked parts: {folder: how many}."""
    seed = first
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            kind = folder.rpartition("/")[2]
            (root / folder / f"{index:03d}.png").write_bytes(png(marked(kind, seed)))
            seed += 1
    return root


@pytest.fixture(scope="session")
def kinds_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = ("good", "dent", "crack")
    counts = {f"train/{kind}": 8 for kind in kinds} | {f"test/{kind}": 4 for kind in kinds}
    return write_kinds(tmp_path_factory.mktemp("kinds"), counts)
