"""Why a stored part was rejected, and what was expected of it."""

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from anomaly.bundle import Bundle, save_bundle
from anomaly.model import AnomalyModel
from record.keep import KeptStore
from service.why.comparison import Comparer
from tests.conftest import normal_pixels, planted, png
from tests.service.recalibration.test_calibrator import (
    client,
    models,
    post_parts,
    say,
    uploads,
)
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import results, served

__all__ = ["client", "models"]  # fixtures

GOOD = normal_pixels(6001)
BAD = planted(GOOD, 80, 40, 12)
DEFECT = np.s_[28:52, 68:92]


def post(client: TestClient, image: bytes, query: str = "") -> dict[str, Any]:
    answer = client.post(f"/score{query}", content=image)
    assert answer.status_code == 200, answer.text
    for _ in range(300):
        if client.get(f"/v1/results/{answer.json()['result_id']}").status_code == 200:
            break
    flush(client)
    scored: dict[str, Any] = answer.json()
    return scored


def why(client: TestClient, result_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/results/{result_id}/why")
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def expected(client: TestClient, result_id: str) -> np.ndarray:
    answer = client.get(f"/v1/results/{result_id}/expected")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(answer.content)), np.float32)


def test_a_rejected_part_is_explained(client: TestClient) -> None:
    normals = post_parts(client, 12)
    bad = post(client, png(BAD))
    said = why(client, bad["result_id"])
    assert said["score"] == pytest.approx(bad["score"], rel=0.01)
    assert (said["threshold"], said["same_calibration"]) == (bad["threshold"], True)
    kinds = {kind["kind"]: kind for kind in said["evidence"]}
    assert set(kinds) == {"prediction", "memory", "repair"}
    assert sum(kind["share"] for kind in kinds.values()) == pytest.approx(1)
    assert sum(kind["contribution"] for kind in kinds.values()) == pytest.approx(said["score"])
    for kind in kinds.values():
        assert kind["normals"]["count"] == 12
        assert kind["normals"]["median"] <= kind["normals"]["p95"] < kind["score"]
    assert said["normals"]["median"] < said["normals"]["p95"] < bad["threshold"]
    assert said["p_value"] == {"value": bad["p_value"], "groups": 40, "as_high": 0.0}
    x, y, width, height = said["cells"][0]["box"]
    assert (width, height) == (16, 12)  # 128 x 96 pixels on 8 x 8 cells
    assert 56 <= x <= 96
    assert 16 <= y <= 60
    assert {near["result_id"] for near in said["neighbours"]} <= set(normals)
    distances = [near["distance"] for near in said["neighbours"]]
    assert len(distances) == 5
    assert distances == sorted(distances)
    assert said["problem"] is None
    assert {near["result_id"] for near in said["expected"]["parts"]} <= set(normals)
    assert 0 < said["expected"]["share"] < 1


def test_what_was_expected_is_the_part_without_its_defect(client: TestClient) -> None:
    post_parts(client, 12)
    bad = post(client, png(BAD))
    picture = expected(client, bad["result_id"])
    assert picture.shape == BAD.shape
    before = np.abs(BAD[DEFECT].astype(np.float32) - GOOD[DEFECT]).mean()
    after = np.abs(picture[DEFECT] - GOOD[DEFECT]).mean()
    assert after < before / 5
    far = np.s_[:, :24]
    assert np.abs(picture[far] - BAD[far]).mean() < 4  # but for JPEG's loss and noise


@pytest.mark.parametrize("form", ["grey", "deep", "large", "jpeg"])
def test_other_forms_of_images_are_expected_too(client: TestClient, form: str) -> None:
    def sent(pixels: np.ndarray) -> bytes:
        if form == "grey":
            return png(pixels[..., 0])
        if form == "deep":
            return png(pixels.astype(np.uint16) * 257)
        if form == "large":
            return png(cv2.resize(pixels, (400, 300)))
        return bytes(cv2.imencode(".jpg", pixels[..., ::-1])[1])

    for seed in range(6):
        normal = post(client, sent(normal_pixels(7000 + seed)))
        if normal["verdict"] == "NG":  # what is calibrated on had another form
            say(client, normal["result_id"], "false_alarm")
    bad = post(client, sent(BAD))
    picture = expected(client, bad["result_id"])
    if form == "large":
        assert picture.shape == (300, 400, 3)
        picture = cv2.resize(picture, (128, 96), interpolation=cv2.INTER_AREA)
    channel = 0 if form == "grey" else slice(None)
    before = np.abs(BAD[DEFECT].astype(np.float32) - GOOD[DEFECT])[..., channel].mean()
    after = np.abs(picture[DEFECT] - GOOD[DEFECT])[..., channel].mean()
    assert after < before / 4


def test_only_normal_parts_of_the_same_camera_are_compared_with(client: TestClient) -> None:
    post_parts(client, 4, "?camera=left")
    alone = post(client, png(BAD), "?camera=right")
    said = why(client, alone["result_id"])
    assert (said["neighbours"], said["expected"]) == ([], None)
    assert said["problem"] == "no_normals_kept"
    assert [kind["normals"] for kind in said["evidence"]] == [None, None, None]
    answer = client.get(f"/v1/results/{alone['result_id']}/expected")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_normals_kept")
    mistaken = post(client, png(normal_pixels(7100)), "?camera=right&threshold=1e6")
    say(client, mistaken["result_id"], "missed_defect")
    assert why(client, alone["result_id"])["problem"] == "no_normals_kept"
    fine = post(client, png(normal_pixels(7101)), "?camera=right")
    said = why(client, alone["result_id"])  # what failed is not remembered
    assert [near["result_id"] for near in said["neighbours"]] == [fine["result_id"]]
    assert said["expected"]["usual_distance"] is None
    assert said["expected"]["is_good_match"] is None


def test_a_part_that_passed_is_explained_too(client: TestClient) -> None:
    ids = post_parts(client, 6)
    said = why(client, ids[0])
    assert ids[0] not in {near["result_id"] for near in said["neighbours"]}
    assert sum(kind["share"] for kind in said["evidence"]) == pytest.approx(1)
    assert expected(client, ids[0]).shape == BAD.shape


def test_what_is_asked_again_is_remembered(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compare = Comparer.compare

    async def counted(*arguments: Any) -> Any:
        calls.append(threading.get_ident())
        return await compare(*arguments)

    monkeypatch.setattr(Comparer, "compare", counted)
    post_parts(client, 6)
    bad = post(client, png(BAD))["result_id"]
    with ThreadPoolExecutor(4) as pool:
        paths = [f"/v1/results/{bad}/{name}" for name in ("why", "expected", "why", "expected")]
        answers = list(pool.map(client.get, paths))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].content == answers[2].content
    assert answers[1].content == answers[3].content
    assert len(calls) == 1


def test_another_calibration_of_the_same_weights_still_explains(client: TestClient) -> None:
    post_parts(client, 6)
    bad = post(client, png(BAD))
    query = "?false_alarm_rate=0.1&activate=true"
    for _ in range(2):  # the version that judged is the previous one, then gone
        assert client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(30)).is_success
    said = why(client, bad["result_id"])
    assert said["same_calibration"] is False
    assert said["threshold"] != bad["threshold"]
    assert sum(kind["share"] for kind in said["evidence"]) == pytest.approx(1)


def test_a_model_with_other_weights_does_not_explain(
    client: TestClient, models: Path, tiny_bundle: Bundle
) -> None:
    post_parts(client, 6)
    bad = post(client, png(BAD))["result_id"]
    model = AnomalyModel.empty(tiny_bundle.model.config)
    model.load_state_dict(tiny_bundle.model.state_dict())
    with torch.no_grad():
        next(model.mae.parameters()).mul_(1.001)
    for version in ("v2", "v3"):
        other = Bundle("tiny", model.eval(), tiny_bundle.calibration, {})
        save_bundle(other, models / "tiny", version)
        assert client.post("/v1/models/tiny:load").is_success
        assert client.post("/v1/models/tiny:activate").is_success
    for path in ("why", "expected"):
        answer = client.get(f"/v1/results/{bad}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "model_gone")


def test_what_is_no_longer_kept_is_said(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post_parts(client, 6)
    bad = post(client, png(BAD))["result_id"]
    monkeypatch.setattr(KeptStore, "image", lambda self, result_id, moment: None)
    assert why(client, bad)["problem"] == "nothing_kept"
    answer = client.get(f"/v1/results/{bad}/expected")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_kept")
    shutil.rmtree(tmp_path / "results/kept")
    for path in ("why", "expected"):
        answer = client.get(f"/v1/results/{bad}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_kept")
    assert client.get("/v1/results/none/why").json()["code"] == "result_not_found"


def test_a_normal_part_that_cannot_be_read_is_left_out(client: TestClient, tmp_path: Path) -> None:
    ids = post_parts(client, 4)
    bad = post(client, png(BAD))["result_id"]
    (damaged,) = (tmp_path / "results/kept").rglob(f"{ids[0]}.image")
    damaged.write_bytes(damaged.read_bytes()[:200])
    near = {part["result_id"] for part in why(client, bad)["neighbours"]}
    assert near == set(ids[1:])
    assert why(client, ids[0])["problem"] == "nothing_kept"  # its own image is damaged


def test_normal_parts_that_are_tidied_away_meanwhile_are_left_out(
    client: TestClient, tmp_path: Path
) -> None:
    ids = post_parts(client, 4)
    first, second, third = (
        post(client, png(planted(GOOD, x, 40, 12)))["result_id"] for x in (80, 60, 40)
    )
    assert why(client, first)["problem"] is None
    images = {path.stem: path for path in (tmp_path / "results/kept").rglob("*.image")}
    for name in ids[:2]:
        images[name].unlink()  # the tokens are remembered
    said = why(client, second)
    assert {part["result_id"] for part in said["expected"]["parts"]} <= set(ids[2:])
    for name in ids[2:]:
        images[name].unlink()
    assert why(client, third)["problem"] == "no_normals_kept"


def test_a_service_without_a_record_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path, keep="none") as open_client:
        bad = open_client.post("/score", content=png(BAD)).json()["result_id"]
        results(open_client, 1)
        answer = open_client.get(f"/v1/results/{bad}/why")
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_kept")
