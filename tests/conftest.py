"""A tiny real model, built in about a second, serves every test that needs one."""

import os
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle, save_bundle
from anomaly.calibration import CalibrationSettings
from anomaly.model import AnomalyModel
from anomaly.types import RgbImage
from training.calibrate import calibrate_model
from training.config import TrainConfig, load_recipe
from training.data import Sample
from training.detail import fit_detail
from training.loop import train
from training.progress import QUIET

SIDE = 64
TINY = (
    "model.preprocess.canvas=64",
    'model.target.kind="pixels"',
    "model.target.patch=8",
    'model.scoring.errors=["l2", "msgms"]',
    "model.scoring.memory_size=200",
    "model.scoring.repair_width=16",
    "evidence.steps=40",
    "evidence.copies=2",
    "evidence.batch_size=256",
    "model.scoring.detail_width=0",  # see `sharp_bundle`
    "detail.copies=48",
    "detail.steps=300",
    "detail.crop=32",
    "model.mae.width=32",
    "model.mae.depth=2",
    "model.mae.heads=2",
    "model.mae.decoder_width=32",
    "model.mae.decoder_depth=1",
    "model.mae.decoder_heads=2",
    "objective.cosine_weight=0.0",
    "objective.l2_weight=1.0",
    "crossfit.folds=0",
    "optimiser.epochs=0",
    "optimiser.steps=80",
    "optimiser.batch_size=16",
    "optimiser.warmup_steps=5",
    "optimiser.learning_rate=0.003",
    "optimiser.ema_decay=0.9",
    "run.tensorboard=false",
    "run.precision=fp32",  # the same on every processor
    'run.device="cpu"',
    'run.export="never"',
)


@pytest.fixture(autouse=True, scope="session")
def record_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing a test starts writes results or an audit trail into the working folder."""
    os.environ["MASKLINE_RECORD_DIR"] = str(tmp_path_factory.mktemp("results"))


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


def normal_pixels(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A smooth part with a stripe, (H, W, 3) uint8; light and noise differ by seed."""
    generator = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    picture = 0.4 + 0.15 * np.sin(7 * cols) + 0.1 * rows + generator.uniform(-0.03, 0.03)
    picture[size[0] // 2 - size[0] // 16 : size[0] // 2 + size[0] // 16] += 0.2
    picture = picture + generator.normal(0, 0.01, size)
    return (np.clip(picture, 0, 1)[..., None] * [255, 250, 240]).astype(np.uint8)


def planted(pixels: np.ndarray, x: int, y: int, half: int) -> np.ndarray:
    """The same part with a checkered patch around (x, y)."""
    rows, cols = np.mgrid[0 : 2 * half, 0 : 2 * half] // max(1, half // 3)
    marked = pixels.copy()
    patch = np.where((rows + cols) % 2 == 0, 255, 0)[..., None]
    marked[y - half : y + half, x - half : x + half] = patch
    return marked


def png(pixels: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    return cv2.imencode(".png", bgr)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def write_set(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Write normal images into folders under `root`: {folder: how many}."""
    seed = first
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index:03d}.png").write_bytes(png(normal_pixels(seed)))
            seed += 1
    return root


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    return load_recipe("default", TINY)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MVTec-layout set with masks: 24 + 40 normal images, and a test split."""
    root = tmp_path_factory.mktemp("data")
    write_set(root, {"train/good": 24, "validation/good": 40, "test/good": 8})
    for folder in ("test/blob", "ground_truth/blob"):
        (root / folder).mkdir(parents=True)
    for index in range(6):
        pixels = normal_pixels(900 + index)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        x, y = 30 + 10 * index, 30 + 6 * index
        mask[y - 10 : y + 10, x - 10 : x + 10] = 255
        (root / "test/blob" / f"{index:03d}.png").write_bytes(png(planted(pixels, x, y, 10)))
        (root / "ground_truth/blob" / f"{index:03d}_mask.png").write_bytes(png(mask))
    return root


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_data: Path, tiny_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    run = tmp_path_factory.mktemp("run")
    model, card = train(samples(tiny_data / "train/good"), tiny_config, run, progress=QUIET)
    normals = samples(tiny_data / "validation/good")
    calibration = calibrate_model(model, normals, CalibrationSettings(0.05), progress=QUIET)
    return Bundle("tiny", model, calibration, {"training": card})


@pytest.fixture(scope="session")
def sharp_bundle(tiny_bundle: Bundle, tiny_config: TrainConfig, tiny_data: Path) -> Bundle:
    """The tiny model with a detail head that has learned something."""
    model = with_detail(tiny_bundle.model)
    fit_detail(model, samples(tiny_data / "train/good"), tiny_config, progress=QUIET)
    return replace(tiny_bundle, model=model)


@pytest.fixture(scope="session")
def tiny_folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_bundle(tiny_bundle, folder, "v1")
    return folder


@pytest.fixture
def image() -> RgbImage:
    return RgbImage(normal_pixels(5000))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def with_detail(model: AnomalyModel) -> AnomalyModel:
    """The same model with an untrained detail head beside."""
    scoring = replace(model.config.scoring, detail_width=4)
    torch.manual_seed(0)
    enlarged = AnomalyModel.empty(replace(model.config, scoring=scoring))
    lacking = enlarged.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert all(name.startswith("detail.") for name in lacking)
    return enlarged.eval()


def samples(folder: Path) -> list[Sample]:
    return [Sample(p, "good", "train", p.stem) for p in sorted(folder.iterdir())]


def is_freed(held: weakref.ref[Any]) -> bool:
    """Whether nobody holds it any more, within some seconds: threads may be about to let go."""
    until = time.monotonic() + 5
    while held() is not None and time.monotonic() < until:
        time.sleep(0.001)
    return held() is None
