from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.schemas.scoring import ModelRef, ScoreOut
from service.settings import Settings


def settings(models: Path, **changes: object) -> Settings:
    usual = {
        "parallel_batches": 2,
        "torch_threads": 1,
        "device": "cpu",
        "max_batch_items": 16,
        "auth": "off",
        "record": "off",
        "allowed_hosts": "testserver",  # what TestClient calls it
    }
    return Settings(models_dir=models, **(usual | changes))  # type: ignore[arg-type]


def score_out(**changes: object) -> ScoreOut:
    """An answer to one image, whose fields may be others."""
    usual = {
        "score": 1.0,
        "p_value": 0.5,
        "threshold": 2.0,
        "is_anomalous": False,
        "verdict": "OK",
        "score_std": 0.0,
        "regions": [],
        "heatmap": None,
        "model": ModelRef(name="m", version="v", digest="d", calibration="c"),
        "part_id": None,
        "camera": None,
        "lot": None,
        "result_id": "r",
        "timings": {},
    }
    return ScoreOut(**(usual | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def app(tiny_folder: Path) -> FastAPI:
    return create_app(settings(tiny_folder, max_body_bytes=200_000, max_image_pixels=90_000))


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as open_client:
        yield open_client
