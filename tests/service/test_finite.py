"""The service never answers OK where there is no finite score."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from anomaly.scoring import Evidence
from service.app import create_app
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

BAD = png(planted(normal_pixels(6001), 80, 40, 12))
PATHS = (
    "/score",
    "/v1/score?threshold=5",
    "/score?heatmap=png",
    "/2020-11-20/projects/tiny/models/1/detect",
)


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(settings(tiny_folder, record="on", record_dir=tmp_path / "results"))
    with TestClient(app, raise_server_exceptions=False) as open_client:
        model = app.state.parts.registry.slots["tiny"].active
        network = model.detector.network

        def spoilt(pixels: torch.Tensor, seeds: Sequence[int]) -> Evidence:
            found = network(pixels, seeds)
            return Evidence(torch.full_like(found.values, torch.nan), found.names)

        model.detector.network = spoilt
        yield open_client


def test_a_defect_without_a_finite_score_is_an_error_on_every_route(client: TestClient) -> None:
    for path in PATHS:
        answer = client.post(path, content=BAD, headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (500, "score_not_finite"), path
    batch = client.post("/v1/score/batch", files=[("file", ("a.png", BAD, "image/png"))] * 2)
    assert {item["error"]["code"] for item in batch.json()["items"]} == {"score_not_finite"}
    image = {"name": "image", "shape": [1, 96, 128, 3], "datatype": "UINT8"}
    tensor = image | {"data": planted(normal_pixels(6001), 80, 40, 12).ravel().tolist()}
    assert client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).status_code == 500
    metrics = client.get("/metrics").text
    assert 'maskline_rejected_total{reason="not_finite"}' in metrics
    assert "maskline_inspections_total{" not in metrics
    assert client.get("/v1/results").json()["results"] == []
