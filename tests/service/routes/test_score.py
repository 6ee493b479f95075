import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.conftest import jpeg, normal_pixels, planted, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))
BAD = png(planted(normal_pixels(6001), 80, 40, 12))


def test_a_good_part_is_ok(client: TestClient) -> None:
    answer = client.post("/score", content=GOOD, headers={"content-type": "image/png"}).json()
    assert answer["verdict"] in ("OK", "NG")
    assert answer["is_anomalous"] == (answer["score"] > answer["threshold"])
    assert 0 < answer["p_value"] <= 1
    assert answer["model"] == {
        "name": "tiny",
        "version": "v1",
        "digest": answer["model"]["digest"],
        "calibration": answer["model"]["calibration"],
        "kinds": None,
    }
    assert len(answer["model"]["calibration"]) == 64
    assert set(answer["timings"]) == {"read", "decode", "queue", "inference", "encode"}
    assert all(seconds >= 0 for seconds in answer["timings"].values())


def test_a_bad_part_is_ng_with_a_region_on_the_defect(client: TestClient) -> None:
    answer = client.post("/v1/score", content=BAD, params={"part_id": "A-7", "lot": "L1"}).json()
    assert answer["verdict"] == "NG"
    assert answer["p_value"] == pytest.approx(1 / 41)
    x, y = answer["regions"][0]["peak"]
    assert abs(x - 80) <= 28
    assert abs(y - 40) <= 24
    assert answer["part_id"] == "A-7"
    assert answer["lot"] == "L1"
    assert len(answer["result_id"]) == 32


def test_the_same_bytes_twice_give_the_same_score_to_the_last_digit(client: TestClient) -> None:
    first, second = (client.post("/score", content=BAD).json() for _ in range(2))
    assert first["score"] == second["score"]
    assert first["heatmap"] == second["heatmap"]
    assert first["result_id"] != second["result_id"]


def test_multipart_and_raw_bodies_score_alike(client: TestClient) -> None:
    raw = client.post("/score", content=BAD).json()
    form = client.post("/score", files={"file": ("part.png", BAD, "image/png")}).json()
    assert form["score"] == raw["score"]


def test_a_large_jpeg_is_answered_in_its_own_pixels(client: TestClient) -> None:
    small = planted(normal_pixels(6001), 80, 40, 12)  # (96, 128)
    large = cv2.resize(small, (340, 256), interpolation=cv2.INTER_CUBIC)  # halved for 64 px
    answer = client.post("/score", content=jpeg(large), params={"heatmap": "overlay"}).json()
    x, y = answer["regions"][0]["peak"]
    assert abs(x - 340 / 128 * 80) <= 340 / 128 * 28
    assert abs(y - 256 / 96 * 40) <= 256 / 96 * 24
    shown = cv2.imdecode(
        np.frombuffer(base64.b64decode(answer["heatmap"]["data"]), np.uint8), cv2.IMREAD_COLOR
    )
    assert shown.shape == large.shape
    assert (answer["heatmap"]["height"], answer["heatmap"]["width"]) == large.shape[:2]


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", None])
def test_the_bytes_decide_not_the_name(client: TestClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert client.post("/score", content=jpeg(normal_pixels(1)), headers=headers).status_code == 200


def test_what_bare_curl_sends_is_taken(client: TestClient) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/score", content=GOOD, headers=headers).status_code == 200


def test_the_default_heatmap_is_the_float16_grid(client: TestClient) -> None:
    heatmap = client.post("/score", content=BAD).json()["heatmap"]
    grid = np.frombuffer(base64.b64decode(heatmap["data"]), "<f2")
    assert grid.size == heatmap["height"] * heatmap["width"] == 64
    assert float(grid.max()) > heatmap["threshold"]


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("png", "image/png"), ("overlay", "image/jpeg"), ("overlay_png", "image/png")],
)
def test_pictures_have_the_parts_own_size(client: TestClient, kind: str, media_type: str) -> None:
    heatmap = client.post("/score", content=BAD, params={"heatmap": kind}).json()["heatmap"]
    data = np.frombuffer(base64.b64decode(heatmap["data"]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert picture.shape[:2] == (96, 128) == (heatmap["height"], heatmap["width"])
    assert heatmap["media_type"] == media_type
    if kind == "png":
        rows, cols = np.nonzero(picture == picture.max())  # the scale ends at twice the threshold
        y, x = rows.mean(), cols.mean()
        assert abs(x - 80) <= 28
        assert abs(y - 40) <= 24


def test_no_heatmap_when_none_is_wanted(client: TestClient) -> None:
    assert client.post("/score?heatmap=none", content=BAD).json()["heatmap"] is None


def test_a_threshold_of_its_own_holds_for_this_request_only(client: TestClient) -> None:
    usual = client.post("/score", content=BAD).json()
    lenient = client.post("/score?threshold=1e6", content=BAD).json()
    assert (lenient["verdict"], lenient["threshold"], lenient["regions"]) == ("OK", 1e6, [])
    assert client.post("/score", content=BAD).json()["threshold"] == usual["threshold"]


def test_a_false_alarm_rate_of_its_own_moves_the_threshold(client: TestClient) -> None:
    usual = client.post("/score", content=GOOD).json()
    strict = client.post("/score?false_alarm_rate=0.5", content=GOOD).json()
    assert strict["threshold"] < usual["threshold"]
    assert strict["score"] == usual["score"]


def test_parameters_may_come_as_headers_and_the_query_wins(client: TestClient) -> None:
    headers = {"X-Maskline-Part-Id": "H-1", "X-Maskline-Heatmap": "none", "X-Maskline-Lot": "L9"}
    answer = client.post("/score?lot=L1", content=GOOD, headers=headers).json()
    assert (answer["part_id"], answer["heatmap"], answer["lot"]) == ("H-1", None, "L1")


def test_concurrent_requests_get_their_own_answers(client: TestClient) -> None:
    bodies = [png(normal_pixels(7000 + i, (60 + i, 80))) for i in range(12)]
    alone = [client.post("/score", content=body).json()["score"] for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda b: client.post("/score", content=b).json(), bodies))
    assert [one["score"] for one in together] == pytest.approx(alone, abs=1e-5)


# -- bad input: a clear error with a stable code, and the server lives on ------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "image_empty"),
        (b"this is no image", 415, "image_unsupported"),
        (b"%PDF-1.7", 415, "image_unsupported"),
        (GOOD[: len(GOOD) // 2], 400, "image_corrupt"),
        (jpeg(normal_pixels(1))[:-900], 400, "image_corrupt"),
        (png(np.zeros((1, 1, 3), np.uint8)), 400, "image_too_small"),
        (png(np.zeros((400, 400, 3), np.uint8)), 413, "image_too_large"),
        (bytes(200_001), 413, "body_too_large"),
    ],
)
def test_bad_images_are_refused(client: TestClient, body: bytes, status: int, code: str) -> None:
    answer = client.post("/score", content=body, headers={"content-type": "image/png"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert len(problem["detail"]) > 10
    assert client.post("/score", content=GOOD).status_code == 200


def test_a_chunked_body_is_cut_off_at_the_limit(client: TestClient) -> None:
    answer = client.post("/score", content=(bytes(50_000) for _ in range(5)))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{}", "application/json", 415, "body_unusable"),
        (b"nonsense", "multipart/form-data", 400, "multipart_invalid"),
        (b"nonsense", "multipart/form-data; boundary=x", 400, "multipart_invalid"),
        (
            b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nhi\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            400,
            "multipart_invalid",
        ),
    ],
)
def test_bodies_that_are_no_image_are_refused(
    client: TestClient, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = client.post("/score", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    "query",
    [
        "heatmap=gif",
        "threshold=high",
        "threshold=nan",
        "false_alarm_rate=0",
        "false_alarm_rate=1.5",
        "camera=" + "x" * 200,
        "part_id=%0d%0aSet-Cookie",
        "treshold=3",
    ],
)
def test_wrong_parameters_are_named(client: TestClient, query: str) -> None:
    answer = client.post(f"/score?{query}", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")
    assert query.split("=")[0] in answer.json()["detail"]


def test_a_wrong_header_parameter_is_named(client: TestClient) -> None:
    answer = client.post("/score", content=GOOD, headers={"X-Maskline-Threshold": "high"})
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")
    assert "header.threshold" in answer.json()["detail"]


def test_unknown_models_routes_and_methods(client: TestClient) -> None:
    answer = client.post("/score?model=nope", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert "tiny" in answer.json()["detail"]
    assert client.get("/nowhere").json()["code"] == "route_not_found"
    assert client.get("/score").json()["code"] == "method_not_allowed"


def test_an_unexpected_error_is_a_500_without_internals(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("service.heatmaps.decode_image", broken)
    answer = client.post("/score", content=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert client.post("/score", content=GOOD).status_code == 200


def test_a_full_door_answers_before_reading_the_body(tiny_folder: Path) -> None:
    app = create_app(settings(tiny_folder, max_in_flight=1))
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.post("/score?heatmap=none", content=GOOD), range(24))
        )
    codes = {a.status_code for a in answers}
    assert codes <= {200, 429}
    assert 200 in codes
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["code"] == "too_many_requests"
            assert int(answer.headers["retry-after"]) >= 1
