"""Calibrating a model that serves, and what stands between a new version and the line."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle, save_bundle
from record.audit import Audit
from service.app import create_app
from service.http.api_keys import Role, add_key
from tests.anomaly.test_labelled_head import with_labelled
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import results, served
from training.labelling import silent

BAD = png(planted(normal_pixels(6001), 80, 40, 12))


def part(seed: int, light: float = 1.0) -> bytes:
    return png((normal_pixels(seed) * light).astype(np.uint8))


@pytest.fixture
def models(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "models/tiny")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(models, tmp_path / "results", keep="all") as open_client:
        yield open_client


def uploads(count: int, light: float = 1.0, per_lot: int = 1) -> list[Any]:
    names = [f"lot{i // per_lot}/{i}.png" for i in range(count)]
    return [("file", (name, part(7000 + i, light))) for i, name in enumerate(names)]


def post_parts(client: TestClient, count: int, query: str = "", first: int = 7000) -> list[str]:
    answers = [client.post(f"/score{query}", content=part(first + i)) for i in range(count)]
    results(client, min(count, 100))
    flush(client)
    return [answer.json()["result_id"] for answer in answers]


def say(client: TestClient, result: str, kind: str) -> None:
    answer = client.post(f"/v1/results/{result}/feedback", json={"kind": kind})
    assert answer.status_code == 201, answer.text


def test_uploaded_parts_give_a_staged_calibration(client: TestClient, models: Path) -> None:
    before = client.get("/v1/models").json()["models"][0]
    answer = client.post(
        "/v1/models/tiny:calibrate?false_alarm_rate=0.1&warn_rate=0.3", files=uploads(30, 0.9)
    )
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert done["versions"] == {
        "name": "tiny",
        "active": "v1",
        "staged": done["version"],
        "previous": None,
    }
    said = done["statement"]
    assert (said["images"], said["groups"], said["false_alarm_rate"]) == (30, 30, 0.1)
    assert said["held_out_rate"] is not None
    assert said["before"]["p"] < 0.001  # a tenth less light is not like before
    assert any("WARNING" in line for line in said["messages"])
    assert client.get("/v1/models").json()["models"][0] == before
    assert client.post("/v1/models/tiny:activate").json()["active"] == done["version"]
    after = client.get("/v1/models").json()["models"][0]
    assert after["threshold"] == pytest.approx(said["threshold"])
    assert after["warn_threshold"] == pytest.approx(said["warn_threshold"])
    assert after["calibration"] != before["calibration"]
    assert load_bundle(models / "tiny").version == done["version"]


def test_a_calibration_that_was_not_activated_does_not_serve_after_a_restart(
    models: Path, tmp_path: Path
) -> None:
    with served(models, tmp_path / "results") as client:
        done = client.post("/v1/models/tiny:calibrate", files=uploads(24)).json()
    with served(models, tmp_path / "results") as client:
        assert client.get("/v1/models").json()["models"][0]["version"] == "v1"
        client.post("/v1/models/tiny:load")
        client.post("/v1/models/tiny:activate")
    with served(models, tmp_path / "results") as client:
        assert client.get("/v1/models").json()["models"][0]["version"] == done["version"]


def test_lots_are_groups_and_cameras_are_calibrated_alone(client: TestClient) -> None:
    query = "?camera=side&activate=true&false_alarm_rate=0.2"
    done = client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(40, 0.9, 4)).json()
    assert done["statement"]["groups"] == 10
    assert done["activated"] is True
    (model,) = client.get("/v1/models").json()["models"]
    assert model["cameras"] == ["side"]
    side = client.post("/score?camera=side", content=part(1, 0.9)).json()
    usual = client.post("/score?camera=top", content=part(1, 0.9)).json()
    assert side["threshold"] == pytest.approx(done["statement"]["threshold"])
    assert usual["threshold"] == pytest.approx(model["threshold"])


def test_a_region_is_uploaded_kept_and_taken_away(client: TestClient) -> None:
    left = json.dumps({"ignore": [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]}).encode()
    region = ("roi", ("roi.json", left))
    done = client.post(
        "/v1/models/tiny:calibrate?activate=true", files=[*uploads(24), region]
    ).json()
    assert done["statement"]["roi_share"] == pytest.approx(0.5, abs=0.01)
    hidden = png(planted(normal_pixels(6001), 110, 40, 8))
    unseen = client.post("/score", content=hidden).json()
    assert unseen["verdict"] == "OK"
    results(client, 1)
    flush(client)
    say(client, unseen["result_id"], "missed_defect")  # or it would be calibrated on
    kept = client.post("/v1/models/tiny:calibrate?activate=true", files=uploads(24)).json()
    assert kept["statement"]["roi_share"] == pytest.approx(0.5, abs=0.01)
    post_parts(client, 24)
    gone = client.post("/v1/models/tiny:calibrate?activate=true", json={"roi": "none"}).json()
    assert gone["statement"]["roi_share"] is None
    assert any("nobody looked there" in line for line in gone["statement"]["messages"])
    assert client.post("/score", content=hidden).json()["verdict"] == "NG"


def test_stored_results_are_calibrated_on_false_alarms_included(client: TestClient) -> None:
    strict = post_parts(client, 3, "?threshold=0")  # rejected though good
    good = post_parts(client, 30, "?lot=L1&threshold=100", first=7100)
    bad = client.post("/score", content=BAD).json()["result_id"]
    flush(client)
    missed = post_parts(client, 1, "?threshold=100", first=7200)[0]
    say(client, strict[0], "false_alarm")
    say(client, missed, "missed_defect")
    passed = [one["calibrated_verdict"] for one in results(client, 30, "?lot=L1")].count("OK")
    assert 25 < passed < 30  # the request's threshold let the rest pass, not the calibration's own
    done = client.post("/v1/models/tiny:calibrate", json={}).json()
    assert done["normals"] == passed + 1  # and the one false alarm that was said to be one
    assert bad not in good
    one_lot = client.post("/v1/models/tiny:calibrate", json={"results": {"lot": "L1"}})
    assert one_lot.json()["normals"] == passed
    grouped = client.post(
        "/v1/models/tiny:calibrate", json={"results": {"lot": "L1", "group_by": "lot"}}
    )
    assert grouped.json()["code"] == "calibration_impossible"  # one lot is one group


def test_stored_and_uploaded_parts_give_the_same_threshold(client: TestClient) -> None:
    post_parts(client, 30)
    stored = client.post("/v1/models/tiny:calibrate", json={}).json()
    client.post("/v1/models/tiny:load")
    sent = [("file", (f"{i}.png", part(7000 + i))) for i in range(30)]
    uploaded = client.post("/v1/models/tiny:calibrate", files=sent).json()
    one, other = stored["statement"]["threshold"], uploaded["statement"]["threshold"]
    assert one == pytest.approx(other, rel=0.03)  # the folds differ, the evidence does not


def test_what_would_change_is_said_before_it_does(client: TestClient) -> None:
    post_parts(client, 30)
    done = client.post("/v1/models/tiny:calibrate?false_alarm_rate=0.4", json={}).json()
    review = done["review"]
    assert review["compared"] == 30
    assert review["to_reject"] >= 5
    assert (
        f"{review['to_reject'] + review['to_pass']} of 30 stored results would change."
        in (review["messages"])
    )


def test_a_confirmed_defect_that_would_pass_keeps_a_version_out(
    client: TestClient, tmp_path: Path
) -> None:
    defect = client.post("/score?threshold=0", content=part(6500)).json()["result_id"]
    results(client, 1)
    flush(client)
    say(client, defect, "confirmed_defect")  # as normal as can be: every calibration passes it
    done = client.post("/v1/models/tiny:calibrate?activate=true", files=uploads(24))
    assert (done.status_code, done.json()["code"]) == (409, "defects_would_pass")
    assert defect in done.json()["detail"]
    assert client.get("/v1/models").json()["models"][0]["version"] == "v1"
    refused = client.post("/v1/models/tiny:activate")
    assert refused.json()["code"] == "defects_would_pass"
    silent = client.post("/v1/models/tiny:activate", json={"force": True})
    assert (silent.status_code, silent.json()["code"]) == (422, "reason_missing")
    forced = client.post(
        "/v1/models/tiny:activate", json={"force": True, "reason": "it was a mislabelled part"}
    )
    assert forced.status_code == 200
    trail = Audit(tmp_path / "results")
    trail.verify()
    rows = list(trail.rows())
    assert [row["action"] for row in rows] == ["start", "feedback", "calibrate", "activate"]
    assert rows[-1]["details"]["forced_because"] == "it was a mislabelled part"
    assert rows[2]["details"]["normals"] == 24
    assert rows[1]["subject"] == defect
    assert (rows[1]["details"]["before"], rows[1]["details"]["kind"]) == (None, "confirmed_defect")


def test_only_an_admin_forces(models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    operate, admin = (add_key(keys, role.name, role) for role in (Role.OPERATE, Role.ADMIN))
    with served(models, tmp_path / "results", auth="keys", keys_file=keys) as client:

        def ask(path: str, key: str, **sent: Any) -> Any:
            return client.post(path, headers={"X-API-Key": key}, **sent)

        assert ask("/v1/models/tiny:calibrate", operate, files=uploads(24)).status_code == 200
        force = {"force": True, "reason": "the line stands"}
        refused = ask("/v1/models/tiny:activate", operate, json=force)
        assert (refused.status_code, refused.json()["code"]) == (403, "role_insufficient")
        assert ask("/v1/models/tiny:activate", admin, json=force).status_code == 200


def save_with_other_weights(bundle: Bundle, folder: Path, version: str) -> None:
    changed = {
        name: value + 1e-4 if value.is_floating_point() else value
        for name, value in bundle.model.state_dict().items()
    }
    other = type(bundle.model).empty(bundle.model.config)
    other.load_state_dict(changed)
    trained = Bundle("tiny", other.eval(), bundle.calibration, {})
    assert save_bundle(trained, folder, version).weights != bundle.weights


def test_only_so_many_images_are_inspected_anew_for_a_review(
    client: TestClient, tiny_bundle: Bundle, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.recalibration.reviewer._CHUNK", 4)
    monkeypatch.setattr("service.recalibration.reviewer._MOST_INSPECTED", 6)
    post_parts(client, 12)
    save_with_other_weights(tiny_bundle, models / "tiny", "v2")
    client.post("/v1/models/tiny:load")
    assert client.post("/v1/models/tiny:activate").status_code == 200
    done = client.post("/v1/models/tiny:calibrate", files=uploads(24)).json()
    assert done["review"]["compared"] == 6


def test_a_defect_still_found_lets_a_version_in_and_other_weights_look_at_the_image_again(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    bad = client.post("/score", content=BAD).json()["result_id"]
    results(client, 1)
    flush(client)
    say(client, bad, "confirmed_defect")
    save_with_other_weights(tiny_bundle, models / "tiny", "v2")
    client.post("/v1/models/tiny:load")
    answer = client.post("/v1/models/tiny:activate")
    assert answer.status_code == 200, answer.text
    assert answer.json()["active"] == "v2"
    # Evidence of the weights before is not used: the image is inspected again.
    done = client.post("/v1/models/tiny:calibrate", files=uploads(24)).json()
    assert done["review"]["defects"] == 1
    assert done["review"]["defects_passing"] == []


def test_a_version_with_one_more_family_looks_at_earlier_parts_again(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    bad = client.post("/score", content=BAD).json()["result_id"]
    post_parts(client, 6)
    say(client, bad, "confirmed_defect")
    model = with_labelled(tiny_bundle.model)
    assert tiny_bundle.calibration is not None
    calibration = silent(tiny_bundle.calibration, len(model.names))
    save_bundle(Bundle("tiny", model, calibration, {}), models / "tiny", "v2")
    assert client.post("/v1/models/tiny:load").is_success
    answer = client.post("/v1/models/tiny:activate")
    assert answer.status_code == 200, answer.text
    # What earlier parts left has one kind less: their images are inspected again.
    done = client.post("/v1/models/tiny:calibrate", files=uploads(24)).json()
    assert done["review"]["defects"] == 1
    assert done["review"]["compared"] >= 6
    fresh = client.post("/score", content=BAD).json()["result_id"]
    results(client, 8)
    flush(client)
    why = client.get(f"/v1/results/{fresh}/why").json()
    assert {kind["kind"] for kind in why["evidence"]} == {
        "prediction",
        "memory",
        "repair",
        "labels",
    }


def test_the_watch_leaves_out_what_would_let_a_defect_pass(
    models: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    with served(models, tmp_path / "results", keep="all", watch_models_s=0.05) as client:
        defect = client.post("/score?threshold=0", content=part(6500)).json()["result_id"]
        results(client, 1)
        flush(client)
        say(client, defect, "confirmed_defect")
        save_bundle(tiny_bundle, models / "tiny", "v2")
        time.sleep(1.0)
        assert client.post("/score", content=BAD).json()["model"]["version"] == "v1"


def test_calibrating_fails_no_request(client: TestClient) -> None:
    stop, statuses = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(client.post("/score", content=BAD).status_code)

    asker = threading.Thread(target=ask)
    asker.start()
    done = client.post("/v1/models/tiny:calibrate?activate=true", files=uploads(30))
    assert done.status_code == 200, done.text
    stop.set()
    asker.join()
    assert set(statuses) == {200}
    assert len(statuses) > 5


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {}}, 422, "normals_missing"),
        ({"json": {"results": {"limit": 1}}}, 422, "parameter_invalid"),
        ({"json": {"roi": {"include": []}}}, 422, "roi_invalid"),
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            422,
            "parameter_invalid",
        ),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "body_unusable"),
        ({"files": [("file", ("a.png", b"x"))]}, 415, "image_unsupported"),
        ({"files": [("file", ("a.png", BAD))]}, 422, "normals_missing"),
        ({"files": [("roi", ("a.png", b"x")), ("file", ("a.png", BAD))]}, 422, "roi_invalid"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(
    client: TestClient, sent: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post("/v1/models/tiny:calibrate", **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert client.get("/v1/models").json()["models"][0]["version"] == "v1"


def test_a_version_that_waits_is_not_written_over(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    save_bundle(tiny_bundle, models / "tiny", "v2")
    answer = client.post("/v1/models/tiny:calibrate", files=uploads(24))
    assert (answer.status_code, answer.json()["code"]) == (409, "version_waits")
    assert load_bundle(models / "tiny").version == "v2"


def test_a_folder_that_cannot_be_written_changes_nothing(
    client: TestClient, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("anomaly.bundle._write_whole", full)
        answer = client.post("/v1/models/tiny:calibrate", files=uploads(24))
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_saved")
    assert load_bundle(models / "tiny").version == "v1"
    with TestClient(create_app(settings(models))) as again:
        assert again.get("/v1/models").json()["models"][0]["version"] == "v1"


def move(client: TestClient, query: str, **body: Any) -> Any:
    return client.post(f"/v1/models/tiny:calibrate?{query}", json={"results": "none", **body})


def test_a_threshold_moves_as_it_was_previewed(client: TestClient) -> None:
    ids = post_parts(client, 24)
    stored = {row["result_id"]: row for row in results(client, 24)}
    threshold = sorted(stored[part]["score"] for part in ids)[12] + 1e-4
    asked = {"threshold": threshold, "limit": 24}
    previewed = client.post("/v1/models/tiny:preview", json=asked).json()
    answer = move(client, f"threshold={threshold}")
    assert answer.status_code == 200, answer.text
    moved = answer.json()
    assert moved["normals"] == 0
    assert moved["statement"]["mode"] == "given"
    assert moved["review"]["to_reject"] == previewed["review"]["to_reject"] > 5
    assert moved["review"]["to_pass"] == previewed["review"]["to_pass"]
    client.post("/v1/models/tiny:activate", json={"version": moved["version"]}).raise_for_status()
    again = post_parts(client, 24)
    served_again = {row["result_id"]: row for row in results(client, 48)}
    for before, after in zip(ids, again, strict=True):
        assert served_again[after]["score"] == stored[before]["score"]
        expected = "NG" if stored[before]["score"] > threshold else "OK"
        assert served_again[after]["verdict"] == expected


def test_a_rate_moves_the_threshold_on_the_same_parts(client: TestClient) -> None:
    previewed = client.post("/v1/models/tiny:preview", json={"false_alarm_rate": 0.2}).json()
    moved = move(client, "false_alarm_rate=0.2").json()
    assert moved["statement"]["threshold"] == previewed["threshold"]
    assert moved["statement"]["mode"] == previewed["mode"] == "certified"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", {}),
        ("threshold=3&warn_rate=0.2", {}),
        ("threshold=3", {"roi": "none"}),
        ("threshold=3", {"results": "all"}),
    ],
)
def test_without_other_parts_only_the_threshold_moves(
    client: TestClient, query: str, body: dict[str, Any]
) -> None:
    answer = move(client, query, **body)
    assert answer.status_code == 422
    assert answer.json()["code"] in {"calibration_impossible", "parameter_invalid"}
    assert client.get("/v1/models").json()["versions"][0]["staged"] is None
