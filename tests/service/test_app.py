import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, save_bundle
from anomaly.errors import ModelCorrupt, ModelNotFound, ModelUncalibrated
from service.app import create_app
from service.logs import ACTOR, log_to_stderr
from service.metrics import Metrics
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))
OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_models_are_listed_with_what_their_calibration_can_certify(client: TestClient) -> None:
    [model] = client.get("/v1/models").json()["models"]
    assert model["name"] == "tiny"
    assert model["is_default"] is True
    assert model["canvas"] == 64
    assert model["false_alarm_rate"] == 0.05
    assert model["calibration_images"] == model["calibration_groups"] == 40
    assert model["smallest_false_alarm_rate"] == pytest.approx(1 / 41)


def test_health(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_a_stopped_inference_thread_is_not_ready_and_fails_no_request_silently(
    tiny_folder: Path,
) -> None:
    with TestClient(create_app(settings(tiny_folder))) as client:
        client.app.state.parts.inspector.engine.batcher.close()
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert client.get("/health/live").status_code == 200
        answer = client.post("/score", content=GOOD)
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert 'maskline_model_ready{model="tiny"} 0.0' in client.get("/metrics").text


def test_metrics_count_what_happened_under_the_contracts_names(tiny_folder: Path) -> None:
    bad = png(planted(normal_pixels(1), 60, 40, 12))
    with TestClient(create_app(settings(tiny_folder))) as client:
        client.post("/score?camera=cam1", content=bad)
        client.post("/score?camera=cam1", content=b"junk")
        text = client.get("/metrics").text
    assert 'maskline_inspections_total{camera="cam1",model="tiny",verdict="NG"} 1.0' in text
    assert 'maskline_score_ratio_count{camera="cam1",model="tiny"} 1.0' in text
    assert 'maskline_rejected_total{reason="bad_image"} 1.0' in text
    assert 'maskline_batch_size_count{model="tiny"} 1.0' in text
    for stage in ("read", "decode", "queue", "inference", "encode"):
        assert f'maskline_stage_duration_seconds_count{{stage="{stage}"}}' in text
    for name in ("queue_depth", "queue_limit", "model_info", "model_ready"):
        assert f"maskline_{name}" in text
    assert 'maskline_last_image_timestamp_seconds{camera="cam1"}' in text


def test_camera_labels_stay_bounded(tiny_folder: Path) -> None:
    with TestClient(create_app(settings(tiny_folder))) as client:
        metrics = client.app.state.parts.inspector.metrics
        labels = {metrics.camera(f"cam{i}") for i in range(500)}
    assert len(labels) == 65
    assert "other" in labels


def test_several_models_need_a_name_or_a_default(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("left", "right"):
        save_bundle(tiny_bundle, tmp_path / name, f"v-{name}")
    with TestClient(create_app(settings(tmp_path))) as client:
        unnamed = client.post("/score", content=GOOD)
        assert (unnamed.status_code, unnamed.json()["code"]) == (404, "model_not_found")
        named = client.post("/score?model=right", content=GOOD).json()
        assert named["model"]["version"] == "v-right"
    with TestClient(create_app(settings(tmp_path, default_model="left"))) as client:
        assert client.post("/score", content=GOOD).json()["model"]["name"] == "left"
    with (
        pytest.raises(ModelNotFound, match="left, right"),
        TestClient(create_app(settings(tmp_path, default_model="middle"))),
    ):
        pass


def test_a_file_in_the_place_of_models_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("no folder")
    with (
        pytest.raises(ModelNotFound, match="MASKLINE_MODELS_DIR"),
        TestClient(create_app(settings(tmp_path / "models"))),
    ):
        pass


def test_an_uncalibrated_model_stops_the_start(tiny_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(replace(tiny_bundle, calibration=None), tmp_path / "raw", "v1")
    with pytest.raises(ModelUncalibrated), TestClient(create_app(settings(tmp_path / "raw"))):
        pass


def test_a_damaged_model_stops_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    with (tmp_path / "tiny" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelCorrupt), TestClient(create_app(settings(tmp_path / "tiny"))):
        pass


def test_openapi_is_the_committed_one(client: TestClient) -> None:
    """Regenerate on purpose with `make openapi`; clients are generated from this file."""
    assert client.get("/openapi.json").json() == json.loads(OPENAPI.read_text())


def test_openapi_has_examples_and_stable_errors(client: TestClient) -> None:
    post = client.get("/openapi.json").json()["paths"]["/score"]["post"]
    assert post["responses"]["200"]["content"]["application/json"]["example"]["verdict"] == "NG"
    assert "429" in post["responses"]
    assert "image/jpeg" in post["requestBody"]["content"]


def test_a_client_that_leaves_while_sending_is_counted_and_harms_nobody(tiny_folder: Path) -> None:
    app = create_app(settings(tiny_folder))
    with TestClient(app) as client:
        messages = iter(
            [
                {"type": "http.request", "body": GOOD[:100], "more_body": True},
                {"type": "http.disconnect"},
            ]
        )

        async def leave() -> None:
            async def receive() -> dict[str, object]:
                return next(messages)

            async def send(message: object) -> None:
                pass

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/score",
                "query_string": b"",
                "headers": [],
                "state": {},
            }
            await app(scope, receive, send)

        client.portal.call(leave)
        assert 'maskline_abandoned_total{stage="read"} 1.0' in client.get("/metrics").text
        assert client.post("/score", content=GOOD).status_code == 200


def test_a_flood_of_camera_names_pushes_nobody_out() -> None:
    metrics = Metrics()
    metrics.reserve_cameras(["calibrated"])
    token = ACTOR.set("flood")
    labels = {metrics.camera(f"fake {number}") for number in range(200)}
    ACTOR.reset(token)
    assert len(labels) == 33  # with `other`
    token = ACTOR.set("line")
    assert metrics.camera("real") == "real"
    assert metrics.camera("calibrated") == "calibrated"
    assert metrics.camera("fake 3") == "fake 3"
    ACTOR.reset(token)
    assert len({metrics.camera(f"more {number}") for number in range(200)}) <= 65


@pytest.mark.parametrize("style", ["json", "text"])
def test_secrets_of_urls_are_never_logged(
    tiny_folder: Path, tmp_path: Path, style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cr3t:/word"
    chosen = settings(
        tiny_folder,
        record="on",
        record_dir=tmp_path,
        database_url=f"postgresql+psycopg://me:{secret}@127.0.0.1:1/none?connect_timeout=1",
        keep_url=f"memory://id:{secret}@bucket/kept",
        keep="all",
    )
    log = log_to_stderr(style, "debug")  # type: ignore[arg-type]
    with log, TestClient(create_app(chosen)) as client:
        client.post("/score", content=png(normal_pixels(1)))
        time.sleep(0.5)  # the writer tries the database
    said = capfd.readouterr().err
    assert "settings:" in said
    assert "127.0.0.1:1/none" in said
    assert secret not in said
    assert "s3cr3t" not in said


@pytest.mark.parametrize(
    "kind", ["Image/PNG", "IMAGE/png; q=1", "image/PNG ", "Multipart/Form-Data"]
)
def test_a_media_type_is_read_whatever_its_case(client: TestClient, kind: str) -> None:
    if kind.startswith("Multi"):
        request = client.build_request("POST", "/score", files={"file": png(normal_pixels(1))})
        given = request.headers["content-type"].replace("multipart/form-data", kind)
        answer = client.post("/score", content=request.read(), headers={"Content-Type": given})
    else:
        answer = client.post(
            "/score", content=png(normal_pixels(1)), headers={"Content-Type": kind}
        )
    assert answer.status_code == 200, answer.text


def test_a_service_on_a_trail_that_is_gone_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    chosen = settings(tiny_folder, record="on", record_dir=tmp_path)
    with TestClient(create_app(chosen)) as client:
        assert "maskline_audit_broken 0.0" in client.get("/metrics").text
    for name in ("audit.jsonl", "audit.head"):
        (tmp_path / name).unlink()
    with TestClient(create_app(chosen)) as client:
        for _ in range(100):
            if "maskline_audit_broken 1.0" in client.get("/metrics").text:
                break
            time.sleep(0.05)
        else:
            pytest.fail("nobody noticed")
