"""A lamp that fades is a camera's matter, a new defect the parts'."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings


@pytest.fixture
def client(tiny_folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(tiny_folder))) as open_client:
        yield open_client


def drift(client: TestClient, camera: str) -> dict[str, Any]:
    found = client.get("/v1/models/tiny/drift").json()
    assert found["model"] == "tiny"
    return {  # type: ignore[no-any-return]
        one["camera"]: one["drift"] for one in found["cameras"]
    }[camera]


def published(client: TestClient) -> list[Any]:
    """What streams were told of drift."""
    blocks = [event.block.decode() for event in client.app.state.parts.events.after(0)]
    return [
        json.loads(block.partition("data: ")[2])
        for block in blocks
        if block.startswith("event: drift\n")
    ]


def test_parts_as_ever_are_no_drift(client: TestClient) -> None:
    assert client.get("/v1/models/tiny/drift").json()["cameras"] == []
    for number in range(120):
        client.post("/score?camera=top", content=png(normal_pixels(8000 + number)))
    found = drift(client, "top")
    assert (found["finding"], found["parts"]) == ("none", 120)
    assert published(client) == []
    assert client.get("/v1/models/none/drift").status_code == 404
    text = client.get("/metrics").text
    for metric in (
        'maskline_score_drift_psi{camera="top",model="tiny"}',
        'maskline_input_drift_psi{camera="top",model="tiny",statistic="sharpness"}',
        'maskline_drift_found{camera="top",finding="camera",model="tiny"} 0.0',
        'maskline_input_brightness_ratio{camera="top",model="tiny"} ',
    ):
        assert metric in text


def test_a_fading_lamp_is_the_cameras_before_false_alarms_double(client: TestClient) -> None:
    """500 parts lose a fifth of their light; the stated rate of the model is 5 %."""
    alarms: list[bool] = []
    found_at = None
    for number in range(500):
        light = 1 - 0.2 * number / 500
        part = png((normal_pixels(8000 + number) * light).astype(np.uint8))
        alarms.append(client.post("/score?camera=top", content=part).json()["is_anomalous"])
        if found_at is None and drift(client, "top")["finding"] == "camera":
            found_at = number
    doubled_at = next((i for i in range(100, 500) if np.mean(alarms[i - 100 : i]) >= 0.1), 500)
    assert found_at is not None
    assert found_at < doubled_at
    found = drift(client, "top")
    assert "brightness" in found["advice"]
    assert "Do not raise the threshold" in found["advice"]
    text = client.get("/metrics").text
    assert 'maskline_drift_found{camera="top",finding="camera",model="tiny"} 1.0' in text
    told = published(client)
    assert told[-1] == {"model": "tiny", "camera": "top", "finding": "camera"}
    assert all(before != after for before, after in pairwise(told))  # changes, not parts


def test_a_new_defect_is_the_parts(client: TestClient) -> None:
    for number in range(500):
        pixels = normal_pixels(8000 + number)
        if number >= 200 and number % 5 == 0:
            pixels = planted(pixels, 60 + number % 30, 40, 6)
        client.post("/score?camera=top", content=png(pixels))
    found = drift(client, "top")
    assert found["finding"] == "parts"
    changed = {one["name"] for one in found["statistics"] if one["since"] is not None}
    assert changed & {"score", "embedding"}


def test_another_camera_and_another_calibration_begin_anew(client: TestClient) -> None:
    for camera, light in (("top", 0.7), ("side", 1.0)):
        for number in range(60):
            part = png((normal_pixels(8000 + number) * light).astype(np.uint8))
            client.post(f"/score?camera={camera}", content=part)
    assert drift(client, "top")["finding"] == "camera"
    assert drift(client, "side")["finding"] == "none"
