"""A service that starts with no model says so, and serves the first one that comes."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, save_bundle
from service.app import create_app
from service.inference import model_watch
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(8000))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_watch, "_FIRST_S", 0.05)


def until(holds: Callable[[], bool], limit_s: float = 20) -> bool:
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@pytest.mark.parametrize("models", ["missing", "empty"])
def test_without_a_model_it_starts_and_says_what_to_do(tmp_path: Path, models: str) -> None:
    folder = tmp_path / "models"
    if models == "empty":
        folder.mkdir()
    with TestClient(create_app(settings(folder))) as client:
        assert client.get("/health/live").status_code == 200
        for path in ("/health/ready", "/v2/health/ready"):
            assert client.get(path).status_code == 503
        assert client.get("/health/ready").json()["code"] == "no_model"
        for target in ("/score", "/score?model=part"):
            answer = client.post(target, content=GOOD)
            assert (answer.status_code, answer.json()["code"]) == (503, "no_model")
            assert "/ui/#/train" in answer.json()["detail"]
        listed = client.get("/v1/models").json()
        assert (listed["models"], listed["known"]) == ([], [])
        assert client.post("/v1/models/part:load").json()["code"] == "no_model"
        assert client.get("/metrics").status_code == 200


def test_the_first_model_that_appears_serves_and_is_the_default(
    tiny_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with TestClient(create_app(settings(models))) as client:
        assert client.post("/score", content=GOOD).status_code == 503
        shutil.copytree(tiny_folder, models / "part")
        assert until(lambda: client.get("/health/ready").status_code == 200)
        answer = client.post("/score", content=GOOD).json()
        assert answer["model"]["name"] == "part"
        [model] = client.get("/v1/models").json()["models"]
        assert model["is_default"]


def test_a_model_that_is_still_copied_serves_once_it_is_whole(
    tiny_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with TestClient(create_app(settings(models))) as client:
        (models / "part").mkdir(parents=True)
        shutil.copy(tiny_folder / "manifest.json", models / "part")
        time.sleep(0.3)
        assert client.get("/health/ready").json()["code"] == "no_model"
        for file in tiny_folder.iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, models / "part")
        assert until(lambda: client.get("/health/ready").status_code == 200)


def test_once_one_serves_newer_versions_wait_to_be_asked_for(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with TestClient(create_app(settings(tmp_path))) as client:
        save_bundle(tiny_bundle, tmp_path / "part", "v1")
        assert until(lambda: client.get("/health/ready").status_code == 200)
        save_bundle(tiny_bundle, tmp_path / "part", "v2")
        save_bundle(tiny_bundle, tmp_path / "other", "v1")
        time.sleep(0.3)
        assert client.post("/score", content=GOOD).json()["model"]["version"] == "v1"


def test_the_default_that_was_set_stays_the_default(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with TestClient(create_app(settings(tmp_path, default_model="right"))) as client:
        save_bundle(tiny_bundle, tmp_path / "left", "v1")
        assert until(lambda: client.get("/health/ready").status_code == 200)
        unnamed = client.post("/score", content=GOOD)
        assert (unnamed.status_code, unnamed.json()["code"]) == (404, "model_not_found")
