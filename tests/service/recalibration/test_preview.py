"""Trying out another threshold or region on a model that serves: nothing changes by it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import load_bundle
from record.audit import Audit
from service.app import create_app
from service.http.api_keys import Role, add_key
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings
from tests.service.recalibration.test_calibrator import (
    BAD,
    client,
    models,
    part,
    post_parts,
    say,
    uploads,
)
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import results

__all__ = ["client", "models"]  # fixtures

PREVIEW = "/v1/models/tiny:preview"
RIGHT_HALF = {"ignore": [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]}


def preview(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(PREVIEW, json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


@pytest.fixture
def unrecorded(models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(models))) as open_client:
        yield open_client


def test_a_preview_changes_nothing(client: TestClient, models: Path, tmp_path: Path) -> None:
    post_parts(client, 24)
    before = client.get("/v1/models").json()
    trail = len(list(Audit(tmp_path / "results").rows()))
    files = {path: path.stat().st_mtime_ns for path in (models / "tiny").iterdir()}
    preview(client, threshold=1.0)
    preview(client, false_alarm_rate=0.2)
    preview(client, roi=RIGHT_HALF)
    assert client.get("/v1/models").json() == before
    assert client.post("/v1/models/tiny:activate").json()["code"] == "nothing_staged"
    assert len(list(Audit(tmp_path / "results").rows())) == trail
    assert {path: path.stat().st_mtime_ns for path in (models / "tiny").iterdir()} == files
    score = client.post("/score", content=part(1)).json()
    assert score["threshold"] == pytest.approx(before["models"][0]["threshold"])


def test_what_a_lower_threshold_rejects_is_what_scores_above_it(client: TestClient) -> None:
    post_parts(client, 30)
    shown = results(client, 30)
    scores = {one["result_id"]: one["score"] for one in shown}
    threshold = sorted(scores.values())[-5] - 1e-4
    verdicts = {one["result_id"]: one["calibrated_verdict"] for one in shown}
    expected = {i for i, s in scores.items() if s > threshold and verdicts[i] != "NG"}
    done = preview(client, threshold=threshold)
    assert (done["mode"], done["threshold"]) == ("given", pytest.approx(threshold))
    assert done["review"]["compared"] == 30
    assert set(done["review"]["to_reject_ids"]) == expected
    assert (done["review"]["to_reject"], done["review"]["to_pass"]) == (len(expected), 0)
    assert any("by hand" in line for line in done["messages"])
    assert preview(client, threshold=threshold, limit=7)["review"]["compared"] == 7


def test_without_another_threshold_it_is_the_one_that_serves(client: TestClient) -> None:
    post_parts(client, 12)
    (serving,) = client.get("/v1/models").json()["models"]
    done = preview(client)
    assert (done["threshold"], done["mode"]) == (serving["threshold"], serving["mode"])
    assert (done["review"]["to_reject"], done["review"]["to_pass"]) == (0, 0)
    point = done["trade_off"]
    assert point["false_alarms"]["low"] <= point["false_alarms"]["mean"]
    assert point["false_alarms"]["mean"] <= 50  # stated: 0.05
    assert 0 < point["synthetic_recall"] <= 1
    assert point["defects_recall"] is None


def test_rates_that_nothing_certifies_are_estimated(client: TestClient) -> None:
    done = preview(client, false_alarm_rate=0.001)
    assert (done["mode"], done["trade_off"]["basis"]) == ("estimated", "estimated")
    assert any("NOT certified" in line for line in done["messages"])
    assert done["threshold"] > preview(client, false_alarm_rate=0.2)["threshold"]


def test_confirmed_defects_that_would_pass_are_named(client: TestClient) -> None:
    bad = client.post("/score", content=BAD).json()
    results(client, 1)
    flush(client)
    say(client, bad["result_id"], "confirmed_defect")
    strict = preview(client, threshold=bad["score"] / 2)
    assert (strict["review"]["defects"], strict["review"]["defects_passing"]) == (1, [])
    assert strict["trade_off"]["defects_recall"] == 1.0
    lax = preview(client, threshold=bad["score"] * 2)
    assert lax["review"]["defects_passing"] == [bad["result_id"]]
    assert lax["review"]["to_pass_ids"] == [bad["result_id"]]
    assert lax["trade_off"]["defects_recall"] == 0.0


def test_which_rate_costs_the_least_follows_from_stakes_and_verdicts(client: TestClient) -> None:
    stakes = {"escape_cost": 40.0, "false_alarm_cost": 1.0, "defect_rate": 0.02}
    without = preview(client)
    assert (without["costs"], without["cheapest_rate"]) == ([], None)
    before = preview(client, stakes=stakes)
    assert before["cheapest_rate"] in [one["trade_off"]["rate"] for one in before["costs"]]
    least = min(before["costs"], key=lambda one: one["cost"])
    assert least["trade_off"]["rate"] == before["cheapest_rate"]
    bad = client.post("/score", content=BAD).json()
    results(client, 1)
    flush(client)
    say(client, bad["result_id"], "confirmed_defect")
    after = preview(client, stakes=stakes)
    for one, other in zip(before["costs"], after["costs"], strict=True):
        caught = float(bad["score"] > one["trade_off"]["threshold"])
        assert other["recall"] == pytest.approx((5 * one["recall"] + caught) / 6)
    cautious = preview(client, stakes=stakes | {"false_alarm_cost": 1000.0})
    assert cautious["cheapest_rate"] <= after["cheapest_rate"]


@pytest.mark.parametrize("wrong", [{"escape_cost": 0}, {"defect_rate": 1.0}, {"cost": 3}, {}])
def test_stakes_that_make_no_sense_are_refused(client: TestClient, wrong: dict[str, float]) -> None:
    whole = {"escape_cost": 40.0, "defect_rate": 0.02} | wrong if wrong else {}
    answer = client.post(PREVIEW, json={"stakes": whole})
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")


def test_a_region_is_fitted_anew_on_kept_parts_and_hides_what_lies_outside(
    client: TestClient,
) -> None:
    post_parts(client, 30)
    hidden = client.post("/score", content=png(planted(normal_pixels(6001), 110, 40, 8))).json()
    results(client, 31)
    flush(client)
    done = preview(client, roi=RIGHT_HALF)
    assert done["roi_share"] == pytest.approx(0.5, abs=0.01)
    assert done["normals"] >= 25
    assert done["trade_off"]["synthetic_recall"] is None
    assert any("No synthetic defects" in line for line in done["messages"])
    made = client.post("/v1/models/tiny:calibrate", json={"roi": RIGHT_HALF}).json()
    assert made["statement"]["threshold"] == pytest.approx(done["threshold"])
    by_hand = preview(client, roi=RIGHT_HALF, threshold=9.0)
    assert (by_hand["mode"], by_hand["threshold"]) == ("given", 9.0)
    assert by_hand["review"]["to_pass_ids"] == [hidden["result_id"]]


def test_a_camera_is_previewed_alone(client: TestClient) -> None:
    query = "?camera=side&activate=true&false_alarm_rate=0.2"
    done = client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(30, 0.9)).json()
    post_parts(client, 6, "?camera=side")
    post_parts(client, 4, "?camera=top", first=7200)
    side = preview(client, camera="side")
    assert side["threshold"] == pytest.approx(done["statement"]["threshold"])
    assert side["review"]["compared"] == 6
    everything_else = preview(client)
    assert everything_else["threshold"] != pytest.approx(side["threshold"])
    assert everything_else["review"]["compared"] == 4
    sent = {one["result_id"]: one["camera"] for one in results(client, 10)}
    rejected = preview(client, camera="side", threshold=1e-3)["review"]["to_reject_ids"]
    assert {sent[result_id] for result_id in rejected} == {"side"}


def test_without_a_record_the_trade_off_is_all_that_is_said(unrecorded: TestClient) -> None:
    done = preview(unrecorded, threshold=2.0)
    assert done["review"] is None
    assert done["trade_off"]["false_alarms"]["parts"] == 1000
    assert any("keeps no results" in line for line in done["messages"])
    refused = unrecorded.post(PREVIEW, json={"roi": RIGHT_HALF})
    assert (refused.status_code, refused.json()["code"]) == (404, "nothing_recorded")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"threshold": 0}, 422, "parameter_invalid"),
        ({"threshold": 1.0, "false_alarm_rate": 0.1}, 422, "parameter_invalid"),
        ({"false_alarm_rate": 1}, 422, "parameter_invalid"),
        ({"limit": 0}, 422, "parameter_invalid"),
        ({"other": 1}, 422, "parameter_invalid"),
        ({"roi": {"include": "x"}}, 422, "roi_invalid"),
        ({"roi": "none"}, 422, "normals_missing"),
    ],
)
def test_what_cannot_be_previewed_is_refused(
    client: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post(
        PREVIEW, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_unknown_model_is_not_previewed(client: TestClient) -> None:
    answer = client.post("/v1/models/other:preview", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


def test_a_camera_pc_may_not_preview(models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    camera, leader = (
        {"Authorization": f"Bearer {add_key(keys, name, role)}"}
        for name, role in (("camera", Role.SCORE), ("leader", Role.OPERATE))
    )
    app = create_app(settings(models, auth="keys", keys_file=keys))
    with TestClient(app) as open_client:
        assert open_client.post(PREVIEW, json={}, headers=camera).status_code == 403
        assert open_client.post(PREVIEW, json={}, headers=leader).status_code == 200


def test_a_threshold_set_by_hand_serves_and_is_shown(client: TestClient, models: Path) -> None:
    query = "?threshold=2.5&activate=true"
    done = client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(24)).json()
    assert (done["statement"]["mode"], done["statement"]["threshold"]) == ("given", 2.5)
    (serving,) = client.get("/v1/models").json()["models"]
    assert (serving["mode"], serving["threshold"]) == ("given", 2.5)
    metrics = client.get("/metrics").text
    assert 'maskline_threshold_mode{mode="given",model="tiny"} 1.0' in metrics
    assert 'mode="certified"' not in metrics  # it was, before
    asked = client.post("/score?false_alarm_rate=0.2", content=part(1)).json()
    assert asked["threshold"] != 2.5  # a request's own rate goes before
    assert client.post("/score", content=part(1)).json()["threshold"] == 2.5
    stored = load_bundle(models / "tiny").calibration
    assert stored is not None
    assert stored.given == 2.5
    anew = client.post("/v1/models/tiny:calibrate?false_alarm_rate=0.1", files=uploads(24)).json()
    assert anew["statement"]["mode"] == "certified"
    refused = client.post("/v1/models/tiny:calibrate?threshold=0", files=uploads(24))
    assert refused.json()["code"] == "parameter_invalid"


def test_an_odd_part_among_the_good_ones_is_named(client: TestClient) -> None:
    files = [*uploads(30), ("file", ("lot99/odd.png", BAD))]
    said = client.post("/v1/models/tiny:calibrate", files=files).json()["statement"]
    assert said["odd"][0] == "lot99"
    assert any("Look at lot99" in line for line in said["messages"])


def slid(shown: dict[str, Any], threshold: float) -> tuple[int, int, list[str]]:
    """What a page counts at a threshold without asking: to reject, to pass, defects passing."""
    parts, defects, doubtful = shown["parts"], shown["defects"], shown["doubtful_above"]
    pairs = zip(parts["calibrated_verdict"], parts["verdict"], strict=True)
    were = [calibrated or verdict for calibrated, verdict in pairs]
    are = list(zip(were, parts["score"], strict=True))
    limit = threshold if doubtful is None else min(threshold, doubtful)
    columns = (defects["result_id"], defects["score"], defects["must_be_rejected"])
    passing = [
        result_id
        for result_id, score, must_be in zip(*columns, strict=True)
        if must_be and score <= limit
    ]
    return (
        sum(was != "NG" and score > threshold for was, score in are),
        sum(was == "NG" and score <= threshold for was, score in are),
        sorted(passing),
    )


@pytest.mark.parametrize("body", [{}, {"roi": RIGHT_HALF}], ids=["as it serves", "a region"])
def test_a_slider_counts_what_the_preview_counts(client: TestClient, body: dict[str, Any]) -> None:
    query = "?activate=true&false_alarm_rate=0.1&warn_rate=0.4"
    assert client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(30)).is_success
    post_parts(client, 26)
    bad = [client.post("/score", content=BAD).json()["result_id"] for _ in range(2)]
    low = client.post("/score?threshold=0", content=part(6500)).json()["result_id"]
    results(client, 29)
    flush(client)
    for result_id in (*bad, low):
        say(client, result_id, "confirmed_defect")
    say(client, bad[0], "withdrawn")  # is no defect any more
    shown = preview(client, **body)
    assert shown["parts"]["feedback"].count("confirmed_defect") == 2
    assert len(shown["defects"]["score"]) == 2
    assert shown["parts"]["inspected_at"] == sorted(shown["parts"]["inspected_at"], reverse=True)
    assert shown["doubtful_above"] is not None
    counted = set()
    scores = sorted(shown["parts"]["score"])
    for threshold in (scores[0], scores[1], scores[10], scores[-4] - 1e-6, scores[-1], 99.0):
        review = preview(client, **body, threshold=threshold)["review"]
        asked = review["to_reject"], review["to_pass"], sorted(review["defects_passing"])
        assert slid(shown, threshold) == asked
        counted.add((*asked[:2], len(asked[2])))
    assert len(counted) > 3
    assert len(preview(client, limit=5, **body)["parts"]["score"]) == 5
