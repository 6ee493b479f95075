"""Several people at one queue, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.http.api_keys import Role, add_key
from tests.service.results.test_evidence import BAD, GOOD, flush
from tests.service.routes.test_results import results, served

A, B = {"X-Maskline-Reviewer": "tab-a"}, {"X-Maskline-Reviewer": "tab-b"}


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


def inspected(client: TestClient, *images: bytes) -> list[str]:
    ids = [client.post("/score?camera=c1", content=image).json()["result_id"] for image in images]
    results(client, len(images))
    flush(client)
    return ids


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def test_two_people_share_a_queue_without_double_work(client: TestClient) -> None:
    first, second, good = inspected(client, BAD, BAD, GOOD)
    queue = client.get("/v1/review", headers=A).json()
    assert [one["result_id"] for one in queue["results"]] == [first, second, good]
    assert (queue["waiting"], queue["sampled"]) == (2, 1)
    claimed = client.post(f"/v1/results/{first}:claim", headers=A)
    assert claimed.status_code == 200
    assert claimed.json() | {"until": ""} == {"result_id": first, "by": "tab-a", "until": ""}
    theirs = client.get("/v1/review?limit=1", headers=B).json()
    assert [one["result_id"] for one in theirs["results"]] == [second]
    said, body = f"/v1/results/{first}/feedback", {"kind": "false_alarm"}
    assert code(client.post(f"/v1/results/{first}:claim", headers=B)) == (409, "claimed")
    assert code(client.post(said, json=body, headers=B)) == (409, "claimed")
    assert code(client.post(said, json=body)) == (409, "claimed")
    assert client.get(f"/v1/results/{first}").json()["feedback"] == []
    assert client.post(said, json=body, headers=A).status_code == 201
    assert client.post(said, json={"kind": "withdrawn"}).status_code == 201  # nobody's any more
    assert client.get("/v1/review", headers=B).json()["waiting"] == 2
    client.post(f"/v1/results/{second}:claim", headers=B)
    assert client.post(f"/v1/results/{second}:release", headers=B).status_code == 204
    assert client.post(f"/v1/results/{second}:claim", headers=A).status_code == 200


def test_what_makes_no_sense_is_refused(client: TestClient) -> None:
    (result,) = inspected(client, BAD)
    assert code(client.post(f"/v1/results/{result}:claim")) == (422, "reviewer_missing")
    wrong = {"X-Maskline-Reviewer": "<b>"}
    refused = client.post(f"/v1/results/{result}:claim", headers=wrong)
    assert code(refused) == (422, "parameter_invalid")
    assert "X-Maskline-Reviewer" in refused.json()["detail"]
    assert code(client.post("/v1/results/none:claim", headers=A)) == (404, "result_not_found")
    assert code(client.get("/v1/review?limit=0")) == (422, "parameter_invalid")
    nothing = client.post(f"/v1/results/{result}/feedback", json={"kind": "withdrawn"})
    assert code(nothing) == (409, "feedback_contradicts")


def test_a_key_is_who_claims_and_its_tabs_are_two(tiny_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = {"X-API-Key": add_key(keys, "anna", Role.OPERATE)}
    camera = {"X-API-Key": add_key(keys, "camera", Role.SCORE)}
    with served(tiny_folder, tmp_path, auth="keys", keys_file=keys) as client:
        result = client.post("/score", content=BAD, headers=key).json()["result_id"]
        claim = f"/v1/results/{result}:claim"
        while client.post(claim, headers=key).status_code == 404:
            pass  # it is stored a moment later
        assert client.post(claim, headers=key).json()["by"] == "anna"
        assert code(client.post(claim, headers=key | A)) == (409, "claimed")
        assert code(client.post(claim, headers=camera)) == (403, "role_insufficient")
        assert code(client.get("/v1/review", headers=camera)) == (403, "role_insufficient")


def test_cameras_say_what_they_sent_and_what_judges_them(client: TestClient) -> None:
    inspected(client, BAD, GOOD, GOOD)
    assert client.post("/score", content=GOOD).is_success
    results(client, 4)
    (model,) = client.get("/v1/models").json()["models"]
    nameless, c1 = client.get("/v1/cameras").json()["cameras"]
    assert (nameless["camera"], nameless["parts"], nameless["takt_s"]) == (None, 1, None)
    assert (c1["camera"], c1["model"], c1["parts"], c1["ng"], c1["warn"]) == ("c1", "tiny", 3, 1, 0)
    assert c1["last"] == client.get("/v1/results?camera=c1&limit=1").json()["results"][0]
    assert c1["takt_s"] > 0
    assert c1["calibration"]["threshold"] == model["threshold"]
    assert c1["calibration"]["digest"] == model["calibration"]
    assert c1["calibration"]["is_of_camera"] is False
    assert code(client.get("/v1/cameras?hours=169")) == (422, "parameter_invalid")
