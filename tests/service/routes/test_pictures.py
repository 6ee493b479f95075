"""The map and the small picture of a stored result."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from anomaly.bundle import Bundle, save_bundle
from tests.conftest import jpeg, normal_pixels, planted, png
from tests.service.results.test_evidence import BAD, flush
from tests.service.routes.test_results import results, served


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


def inspected(client: TestClient, image: bytes, query: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = client.post(f"/score?{query}", content=image).json()
    results(client, 1)
    flush(client)
    return answer


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), np.int16)


def test_a_map_is_the_answer_s_on_the_fixed_scale(sharp_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(sharp_bundle, tmp_path / "models/sharp", "v1")
    with served(tmp_path / "models/sharp", tmp_path, keep="all") as client:
        answer = inspected(client, BAD, "heatmap=png")
        stored = client.get(f"/v1/results/{answer['result_id']}/map")
    assert stored.headers["content-type"] == "image/png"
    assert "immutable" in stored.headers["cache-control"]
    threshold = float(stored.headers["x-maskline-map-threshold"])
    assert threshold == pytest.approx(answer["heatmap"]["threshold"], rel=1e-3)
    sent, drawn = opened(base64.b64decode(answer["heatmap"]["data"])), opened(stored.content)
    assert drawn.shape == (answer["heatmap"]["height"], answer["heatmap"]["width"])
    assert np.abs(sent - drawn).max() <= 2  # the stored map has half the digits
    x, y = answer["regions"][0]["peak"]
    assert drawn[y, x] > 128 > np.median(drawn)


def test_a_picture_may_be_asked_for_the_moment_its_part_is_answered(client: TestClient) -> None:
    for number in range(5):
        answer = client.post("/score", content=png(normal_pixels(number)))
        shown = client.get(f"/v1/results/{answer.json()['result_id']}/thumbnail")
        assert shown.status_code == 200, shown.text
    assert client.get(f"/v1/results/{'0' * 32}/thumbnail").status_code == 404


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "16 bit", "grey"])
def test_a_thumbnail_looks_like_the_part(client: TestClient, kind: str) -> None:
    pixels = planted(cv2.resize(normal_pixels(6001), (900, 600)), 400, 200, 60)
    image = {
        "JPEG": lambda: jpeg(pixels),
        "PNG": lambda: png(pixels),
        "16 bit": lambda: cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[
            1
        ].tobytes(),
        "grey": lambda: cv2.imencode(".png", pixels[..., 1])[1].tobytes(),
    }[kind]()
    result = inspected(client, image)["result_id"]
    small = client.get(f"/v1/results/{result}/thumbnail?side=120")
    assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
    assert "private, max-age=86400, immutable" in small.headers["cache-control"]
    expected = cv2.resize(pixels, (120, 80), interpolation=cv2.INTER_AREA).astype(np.int16)
    if kind == "grey":
        expected = np.repeat(expected[..., 1:2], 3, axis=2)
    shown = opened(small.content)
    assert shown.shape == (80, 120, 3)
    assert np.abs(shown - expected).mean() < 6
    assert len(client.get(f"/v1/results/{result}/thumbnail").content) < 20_000


def test_a_thumbnail_s_overlay_lies_where_the_large_one_does(client: TestClient) -> None:
    answer = inspected(
        client, png(planted(cv2.resize(normal_pixels(6001), (900, 600)), 400, 200, 60))
    )
    path = f"/v1/results/{answer['result_id']}"
    large = opened(client.get(f"{path}/heatmap").content).astype(np.uint8)
    small = opened(client.get(f"{path}/thumbnail?side=300&overlay=true").content)
    plain = opened(client.get(f"{path}/thumbnail?side=300").content)
    expected = cv2.resize(large, (300, 200), interpolation=cv2.INTER_AREA).astype(np.int16)
    assert np.abs(small - expected).mean() < 6
    tint, expected_tint = (small - plain).ravel(), (expected - plain).ravel()
    assert np.abs(expected_tint).max() > 80
    assert np.corrcoef(tint, expected_tint)[0, 1] > 0.95


def test_a_small_image_is_not_made_larger_and_a_narrow_one_keeps_a_row(client: TestClient) -> None:
    result = inspected(client, png(normal_pixels(6001)[:40, :128]))["result_id"]
    shown = opened(client.get(f"/v1/results/{result}/thumbnail?side=1024").content)
    assert shown.shape == (40, 128, 3)


def test_what_is_not_kept_or_makes_no_sense_is_said(client: TestClient, tmp_path: Path) -> None:
    result = inspected(client, BAD)["result_id"]
    for side in (31, 1025):
        refused = client.get(f"/v1/results/{result}/thumbnail?side={side}")
        assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    [evidence] = (tmp_path / "kept").rglob(f"{result}.evidence")
    evidence.unlink()
    assert client.get(f"/v1/results/{result}/thumbnail").status_code == 200
    [image] = (tmp_path / "kept").rglob(f"{result}.image")
    for path, code in (("map", "nothing_kept"), ("thumbnail?overlay=true", "nothing_kept")):
        refused = client.get(f"/v1/results/{result}/{path}")
        assert (refused.status_code, refused.json()["code"]) == (404, code)
        assert "immutable" not in refused.headers["cache-control"]
    image.unlink()
    gone = client.get(f"/v1/results/{result}/thumbnail")
    assert (gone.status_code, gone.json()["code"]) == (404, "nothing_kept")
