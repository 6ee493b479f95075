"""What an answer says of an image that is unlike those calibrated on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.encoding import Encoding
from anomaly.types import Placement
from service.app import create_app
from service.evidence import StoredEvidence
from service.recalibration.calibrator import _encodings
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

PART = normal_pixels(6000)
GOOD, BAD = png(PART), png(planted(normal_pixels(1), 60, 40, 12))


def warnings(client: TestClient, image: bytes, query: str = "") -> dict[str, str]:
    answer = client.post(f"/score?heatmap=none{query}", content=image)
    assert answer.status_code == 200, answer.text
    return {one["code"]: one["text"] for one in answer.json()["input"]["warnings"]}


def test_an_image_like_those_calibrated_on_has_none(client: TestClient) -> None:
    assert warnings(client, GOOD) == warnings(client, BAD) == {}


@pytest.mark.parametrize(
    ("image", "codes"),
    [
        (cv2.imencode(".jpg", PART, [1, 50])[1].tobytes(), {"format", "compression"}),
        (png(normal_pixels(6000, (192, 256))), {"size"}),
        (png((PART * 0.5).astype(np.uint8)), {"brightness"}),
        (png(cv2.GaussianBlur(PART, (0, 0), 3)), {"sharpness"}),
    ],
)
def test_a_changed_camera_is_said_and_counted(
    client: TestClient, image: bytes, codes: set[str]
) -> None:
    assert codes <= warnings(client, image).keys()
    text = client.get("/metrics").text
    for code in codes:
        assert f'maskline_input_warnings_total{{code="{code}",model="tiny"}}' in text


def test_a_rate_that_is_not_certified_is_said(client: TestClient) -> None:
    [text] = warnings(client, GOOD, "&false_alarm_rate=1e-9").values()
    assert "1e-09 is not certified" in text
    assert warnings(client, GOOD, "&false_alarm_rate=0.2") == {}


def test_each_image_of_a_batch_has_its_own(client: TestClient) -> None:
    dark = png((PART * 0.5).astype(np.uint8))
    files = [("file", ("a", one, "image/png")) for one in (GOOD, dark)]
    items = client.post("/v1/score/batch?heatmap=none", files=files).json()["items"]
    first, second = (item["result"]["input"]["warnings"] for item in items)
    assert first == []
    assert "brightness" in {one["code"] for one in second}


def test_a_recalibration_knows_the_images_it_was_made_of(tiny_folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models" / "tiny"
    shutil.copytree(tiny_folder, models)
    jpegs = [cv2.imencode(".jpg", normal_pixels(n), [1, 70])[1].tobytes() for n in range(24)]
    with TestClient(create_app(settings(models))) as client:
        assert "compression" in warnings(client, jpegs[0])
        files = [("file", (f"{n}.jpg", one, "image/jpeg")) for n, one in enumerate(jpegs)]
        answer = client.post("/v1/models/tiny:calibrate?activate=true", files=files)
        assert answer.status_code == 200, answer.text
        assert warnings(client, jpegs[0]) == {}
        assert "compression" in warnings(client, GOOD)
    known: Any = load_bundle(models).calibration
    assert (known.encodings.formats, known.encodings.qualities) == (("JPEG",), (70, 70))


def test_evidence_stored_before_says_nothing_of_encodings() -> None:
    encoding = Encoding("PNG", 10, 20, 3, 8)
    stored = StoredEvidence(
        errors=np.zeros((1, 4), np.float16),
        map=np.zeros((2, 2), np.float16),
        map_threshold=1.0,
        placement=Placement.filling(8),
        white_level=255,
        inputs=np.zeros(5, np.float32),
        encoding=encoding,
        weights="ab" * 32,
    )
    arrays = dict(stored.arrays())
    assert StoredEvidence.of_arrays(arrays).encoding == encoding
    del arrays["encoding"]
    before = StoredEvidence.of_arrays(arrays)
    assert _encodings([stored, stored]) == (encoding,) * 2
    assert _encodings([stored, before]) == ()


def test_a_model_of_before_serves_without_warnings(tiny_bundle: Bundle, tmp_path: Path) -> None:
    calibration = replace(tiny_bundle.calibration, encodings=None, reference=None)
    save_bundle(replace(tiny_bundle, calibration=calibration), tmp_path / "tiny", "v1")
    with TestClient(create_app(settings(tmp_path / "tiny"))) as client:
        assert warnings(client, cv2.imencode(".jpg", PART, [1, 30])[1].tobytes()) == {}
