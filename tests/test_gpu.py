"""The whole job on a GPU: trained, saved, calibrated and served there, as on a CPU."""

from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle
from anomaly.runtime import detector_of
from service.app import create_app
from tests.conftest import TINY, samples
from tests.service.conftest import settings
from training.config import load_recipe
from training.data import open_dataset
from training.loop import train
from training.pipeline import Recalibration, Training, calibrate_folder, train_model
from training.progress import QUIET

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_model_trained_on_a_gpu_serves_on_a_cpu(tiny_data: Path, tmp_path: Path) -> None:
    config = load_recipe("default", [*TINY, "run.device=cuda"])
    train_model(open_dataset(tiny_data), tmp_path / "model", config, Training(), progress=QUIET)
    bundle = load_bundle(tmp_path / "model")  # holds the golden scores
    assert bundle.card["training"]["device"].startswith("cuda")
    normal = samples(tiny_data / "validation/good")
    again = calibrate_folder(
        tmp_path / "model", normal, Recalibration(0.05), device="cuda", progress=QUIET
    )
    assert bundle.calibration is not None
    assert again.calibration.threshold == pytest.approx(
        bundle.calibration.at_rate(0.05).threshold, rel=0.02
    )


def test_a_run_goes_on_on_a_gpu(tiny_data: Path, tmp_path: Path) -> None:
    changes = ["optimiser.steps=12", "run.checkpoint_every=4", "run.device=cuda"]
    config = load_recipe("default", [*TINY, *changes])
    normals = samples(tiny_data / "train/good")
    _, card = train(normals, config, tmp_path / "run", progress=QUIET)
    _, again = train(normals, config, tmp_path / "run", resume=True, progress=QUIET)
    assert card["steps"] == again["steps"] == 12
    assert again["final_loss"] is None  # nothing was left to do


def test_the_service_answers_from_a_gpu_as_from_a_cpu(
    tiny_folder: Path, tiny_bundle: Bundle, tiny_data: Path
) -> None:
    chosen = samples(tiny_data / "validation/good")[:5]
    bodies = [sample.path.read_bytes() for sample in chosen]
    cpu = [detector_of(tiny_bundle, "cpu").detect([body])[0].pred_score for body in bodies]
    with TestClient(create_app(settings(tiny_folder, device="cuda"))) as client:
        for body, wanted in zip(bodies, cpu, strict=True):
            answer = client.post("/score", content=body, headers={"Content-Type": "image/png"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["score"] == pytest.approx(wanted, abs=0.1)
