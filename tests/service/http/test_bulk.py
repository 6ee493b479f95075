"""Many images in one request."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))
BAD = png(planted(normal_pixels(1), 60, 40, 12))


def parts(*bodies: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (f"{i}.png", body, "image/png")) for i, body in enumerate(bodies)]


def test_each_image_has_its_own_status_in_order(client: TestClient) -> None:
    alone = client.post("/score?heatmap=none", content=BAD).json()
    good = client.post("/score?heatmap=none", content=GOOD).json()
    answer = client.post("/v1/score/batch?heatmap=none", files=parts(GOOD, b"junk", BAD, b""))
    assert answer.status_code == 200
    first, junk, bad, empty = answer.json()["items"]
    assert [item["image"] for item in (first, junk, bad, empty)] == [f"{i}.png" for i in range(4)]
    assert first["status"] == bad["status"] == "ok"
    assert first["result"]["score"] == pytest.approx(good["score"], rel=1e-5)
    assert (junk["status"], junk["error"]["code"]) == ("error", "image_unsupported")
    assert (empty["status"], empty["error"]["code"]) == ("error", "image_empty")
    assert bad["result"]["score"] == pytest.approx(alone["score"], rel=1e-5)
    assert bad["result"]["verdict"] == alone["verdict"] == "NG"


def test_more_images_than_the_queue_holds_all_get_their_turn(tiny_folder: Path) -> None:
    with TestClient(create_app(settings(tiny_folder, max_queue_size=8))) as client:
        answer = client.post("/v1/score/batch?priority=low", files=parts(*[GOOD] * 40))
    assert [item["status"] for item in answer.json()["items"]] == ["ok"] * 40


def test_what_concerns_the_whole_request_is_its_answer(tiny_folder: Path) -> None:
    small = settings(tiny_folder, max_bulk_images=2, max_bulk_bytes=100_000)
    with TestClient(create_app(small)) as client:
        many = client.post("/v1/score/batch", files=parts(GOOD, GOOD, GOOD))
        assert (many.status_code, many.json()["code"]) == (400, "multipart_invalid")
        large = client.post("/v1/score/batch", files=parts(b"x" * 100_001))
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        none = client.post("/v1/score/batch", data={"file": "text"})
        assert (none.status_code, none.json()["code"]) == (400, "multipart_invalid")
        raw = client.post("/v1/score/batch", content=GOOD)
        assert (raw.status_code, raw.json()["code"]) == (400, "multipart_invalid")
        unknown = client.post("/v1/score/batch?model=other", files=parts(GOOD))
        assert unknown.status_code == 404


def test_an_image_past_the_deadline_is_an_item(client: TestClient) -> None:
    batcher = client.app.state.parts.inspector.engine.batcher
    answer = client.post("/v1/score/batch?deadline_ms=0.001", files=parts(GOOD, GOOD))
    codes = {item["error"]["code"] for item in answer.json()["items"]}
    assert codes == {"deadline_missed"}
    assert batcher.is_alive
