"""Models of labels beside one of anomalies, on a running service."""

import dataclasses
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from service.app import create_app
from supervised.bundle import SupervisedBundle, save_supervised
from supervised.encoder import Encoder
from supervised.tasks import SupervisedConfig, build_network
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings
from tests.supervised.conftest import KINDS, pretrained

IMAGE = png(normal_pixels(1))


@pytest.fixture(scope="module")
def kinds_model() -> SupervisedBundle:
    encoder = Encoder.pretrained(pretrained())
    config = SupervisedConfig("classification", KINDS, encoder.config)
    return SupervisedBundle("kinds", config, build_network(config, encoder).eval(), {})


@pytest.fixture
def models(tmp_path: Path, tiny_folder: Path, kinds_model: SupervisedBundle) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(tiny_folder, folder / "tiny")
    save_supervised(kinds_model, folder / "kinds", "v1")
    return folder


@pytest.fixture
def served(models: Path) -> Iterator[TestClient]:
    app = create_app(settings(models, record="off", max_body_bytes=200_000))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_a_model_of_labels_answers_with_kinds_and_the_other_as_before(served: TestClient) -> None:
    answer = served.post("/score?model=kinds&part_id=A-1", content=IMAGE)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["task"] == "classification"
    assert {row["kind"] for row in body["classes"]} == set(KINDS)
    assert sum(row["probability"] for row in body["classes"]) == pytest.approx(1, abs=1e-5)
    assert (body["boxes"], body["masks"], body["part_id"]) == ([], [], "A-1")
    assert body["model"]["version"] == "v1"
    assert {"read", "decode", "queue", "inference", "encode"} <= body["timings"].keys()
    # The model of anomalies is alone among its like, and so serves who names none.
    for url in ("/score", "/score?model=tiny"):
        assert served.post(url, content=IMAGE).json()["verdict"] in ("OK", "NG", "WARN")


def test_many_at_once_are_batched_and_answered_alike(served: TestClient) -> None:
    answers = [served.post("/v1/score?model=kinds", content=IMAGE).json() for _ in range(3)]
    assert answers[0]["classes"] == answers[1]["classes"] == answers[2]["classes"]


@pytest.mark.parametrize(
    ("url", "content", "status", "code"),
    [
        ("/score?model=kinds&threshold=1", IMAGE, 422, "not_for_labels"),
        ("/score?model=kinds&false_alarm_rate=0.1", IMAGE, 422, "not_for_labels"),
        ("/score?model=kinds", b"no image", 415, "image_unsupported"),
        ("/score?model=kinds", b"\0" * 300_000, 413, "body_too_large"),
        ("/score?model=nothing", IMAGE, 404, "model_not_found"),
    ],
)
def test_what_cannot_be_answered_has_its_code(
    served: TestClient, url: str, content: bytes, status: int, code: str
) -> None:
    refused = served.post(url, content=content)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_a_mask_in_the_callers_pixels_counts_as_what_is_in_flight(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.pretrained(pretrained())
    config = SupervisedConfig("segmentation", KINDS, encoder.config, {"channels": 8})
    bundle = SupervisedBundle("masks", config, build_network(config, encoder).eval(), {})
    save_supervised(bundle, models / "masks", "v1")
    app = create_app(settings(models, record="off"))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/score?model=masks", content=IMAGE).status_code == 200
        monkeypatch.setattr("service.labeller._MASK_BYTES_PER_PX", 10**9)
        refused = client.post("/score?model=masks", content=IMAGE)
        assert (refused.status_code, refused.json()["code"]) == (413, "memory_exceeded")
        assert client.post("/score?model=kinds", content=IMAGE).status_code == 200


def test_a_model_that_gives_no_number_is_broken_and_the_others_serve(
    models: Path, kinds_model: SupervisedBundle
) -> None:
    network = deepcopy(kinds_model.network)
    torch.nn.init.constant_(network.get_parameter("head.bias"), torch.nan)
    save_supervised(dataclasses.replace(kinds_model, network=network), models / "nan", "v1")
    with TestClient(create_app(settings(models, record="off"))) as client:
        broken = {
            model["name"]: model["code"] for model in client.get("/v1/models").json()["broken"]
        }
        assert broken == {"nan": "model_corrupt"}
        assert client.post("/score?model=kinds", content=IMAGE).status_code == 200


def test_models_of_labels_are_listed_apart(served: TestClient) -> None:
    listed = served.get("/v1/models").json()
    assert [model["name"] for model in listed["models"]] == ["tiny"]
    assert listed["known"] == ["tiny"]
    (labels,) = listed["labels"]
    assert labels["classes"] == list(KINDS)
    assert (labels["task"], labels["canvas"], labels["version"]) == ("classification", 64, "v1")


def test_another_version_or_a_new_model_serves_once_it_is_loaded(
    served: TestClient, models: Path, kinds_model: SupervisedBundle
) -> None:
    save_supervised(kinds_model, models / "kinds", "v2")
    assert served.post("/score?model=kinds", content=IMAGE).json()["model"]["version"] == "v1"
    loaded = served.post("/v1/models/kinds:load")
    assert loaded.json()["active"] == "v2"
    assert served.post("/score?model=kinds", content=IMAGE).json()["model"]["version"] == "v2"
    save_supervised(kinds_model, models / "shapes", "v1")
    assert served.post("/v1/models/shapes:load").status_code == 200
    assert served.post("/score?model=shapes", content=IMAGE).json()["model"]["name"] == "shapes"
    assert served.post("/v1/models/tiny:load").json()["staged"] == "v1"  # waits, as ever


def test_a_broken_one_keeps_nobody_from_serving(
    models: Path, kinds_model: SupervisedBundle
) -> None:
    (models / "kinds" / "model.safetensors").write_bytes(b"torn")
    with TestClient(create_app(settings(models)), raise_server_exceptions=False) as client:
        refused = client.post("/score?model=kinds", content=IMAGE)
        assert (refused.status_code, refused.json()["code"]) == (503, "model_corrupt")
        assert [m["code"] for m in client.get("/v1/models").json()["broken"]] == ["model_corrupt"]
        assert client.post("/score", content=IMAGE).status_code == 200
        save_supervised(kinds_model, models / "kinds", "v3")
        assert client.post("/v1/models/kinds:load").status_code == 200
        assert client.post("/score?model=kinds", content=IMAGE).status_code == 200


def test_a_service_with_models_of_labels_alone_is_ready(
    tmp_path: Path, kinds_model: SupervisedBundle
) -> None:
    save_supervised(kinds_model, tmp_path / "kinds", "v1")
    with TestClient(create_app(settings(tmp_path)), raise_server_exceptions=False) as client:
        assert client.get("/health/ready").status_code == 200
        assert client.post("/score?model=kinds", content=IMAGE).status_code == 200
        unnamed = client.post("/score", content=IMAGE)
        assert unnamed.json()["code"] == "no_model"


def test_loading_is_sealed_into_the_audit_trail(
    models: Path, tmp_path: Path, kinds_model: SupervisedBundle
) -> None:
    recorded = settings(models, record="on", record_dir=tmp_path / "results")
    with TestClient(create_app(recorded), raise_server_exceptions=False) as client:
        save_supervised(dataclasses.replace(kinds_model, name="kinds"), models / "kinds", "v2")
        assert client.post("/v1/models/kinds:load").status_code == 200
        assert client.post("/score?model=kinds", content=IMAGE).status_code == 200
        rows = client.get("/v1/audit").json()
        assert client.get("/v1/results").json()["results"] == []
    loads = [row for row in rows["rows"] if row["action"] == "load"]
    assert [row["subject"] for row in loads] == ["kinds"]
    assert loads[0]["details"]["version"] == "v2"
