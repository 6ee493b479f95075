"""From what people say to names in answers, while the service runs."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle, save_bundle
from record.audit import Audit
from service.app import create_app
from service.http.api_keys import Role, add_key
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import results, served
from training.kinds import examples_of_images

_TIME_S = 10.0  # two seconds are promised; this machine may be busy


def checkered(seed: int) -> bytes:
    return png(planted(normal_pixels(seed), 30 + seed % 40, 40, 10))


def blotted(seed: int) -> bytes:
    """Another kind: a flat white disc."""
    pixels = normal_pixels(seed)
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    pixels[(rows - 45) ** 2 + (columns - 60 - seed % 30) ** 2 < 150] = 255
    return png(pixels)


@contextmanager
def line(folder: Path, place: Path, **changes: object) -> Iterator[TestClient]:
    with served(folder, place, keep="all", **changes) as client:
        yield client


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model of the test's own: some change its versions."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "models/tiny"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def client(folder: Path, place: Path) -> Iterator[TestClient]:
    with line(folder, place) as open_client:
        yield open_client


def inspect(client: TestClient, image: bytes) -> dict[str, Any]:
    answer = client.post("/score?heatmap=none", content=image)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def say(client: TestClient, image: bytes, name: str, **more: object) -> dict[str, Any]:
    """Inspect a defect and say what it is called."""
    inspected = inspect(client, image)
    assert inspected["verdict"] == "NG"
    flush(client)
    where = f"/v1/results/{inspected['result_id']}/feedback"
    while client.get(f"/v1/results/{inspected['result_id']}").status_code == 404:
        time.sleep(0.01)
    said = client.post(where, json={"kind": "confirmed_defect", "defect": name, **more})
    assert said.status_code == 201, said.text
    return dict(said.json())


def kinds(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/v1/models/tiny/kinds").json())


def until(client: TestClient, counts: dict[str, int]) -> dict[str, Any]:
    """Wait until the service has learned from so many examples of each kind."""
    ends = time.monotonic() + _TIME_S
    while time.monotonic() < ends:
        learned = kinds(client)
        if {kind["kind"]: kind["parts"] for kind in learned["kinds"]} == counts:
            return learned
        time.sleep(0.05)
    raise AssertionError(kinds(client))


def taught(client: TestClient, count: int = 5) -> None:
    for seed in range(count):
        say(client, checkered(seed), "checker")
        say(client, blotted(seed), "blot")
    until(client, {"checker": count, "blot": count})


def strongest(answer: dict[str, Any]) -> str | None:
    name: str | None = answer["regions"][0]["kind"]
    return name


def test_a_name_is_never_worth_a_verdict(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory on the device")

    monkeypatch.setattr("anomaly.detector.describe", broken)
    answer = inspect(client, checkered(0))
    assert answer["verdict"] == "NG"
    assert strongest(answer) is None


def test_nothing_is_named_before_the_first_example(client: TestClient) -> None:
    answer = inspect(client, checkered(0))
    assert strongest(answer) is None
    assert answer["model"]["kinds"] is None
    assert answer["excused"] is None
    assert kinds(client)["kinds"] == []


def test_what_people_say_names_the_next_part(client: TestClient, place: Path) -> None:
    taught(client)
    answers = [inspect(client, checkered(40 + i)) for i in range(3)]
    assert [strongest(answer) for answer in answers] == ["checker"] * 3
    assert [strongest(inspect(client, blotted(30 + i))) for i in range(3)] == ["blot"] * 3
    learned = kinds(client)
    assert answers[0]["model"]["kinds"] == learned["version"]
    assert answers[0]["regions"][0]["kind_p"] >= learned["unknown_below"]
    stored = results(client, 16)
    assert stored[0]["regions"][0]["kind"] == "blot"
    metrics = client.get("/metrics").text
    counted = re.search(r'maskline_defects_total{kind="checker",model="tiny"} ([\d.]+)', metrics)
    assert counted is not None
    assert float(counted[1]) >= 3
    assert 'maskline_kind_examples{kind="blot",model="tiny"}' in metrics
    sealed = [row for row in Audit(place).rows() if row["action"] == "kinds"]
    assert sealed[-1]["details"]["version"] == learned["version"]
    assert sealed[-1]["by"] == "service"


def test_it_survives_a_restart_and_seals_nothing_twice(folder: Path, place: Path) -> None:
    with line(folder, place) as client:
        taught(client)
        version = kinds(client)["version"]
    sealed = len(list(Audit(place).rows()))
    with line(folder, place) as client:
        assert until(client, {"checker": 5, "blot": 5})["version"] == version
        assert strongest(inspect(client, checkered(41))) == "checker"
    kinds_rows = [row for row in list(Audit(place).rows())[sealed:] if row["action"] == "kinds"]
    assert kinds_rows == []


def test_a_calibration_and_its_rollback_leave_the_names(client: TestClient) -> None:
    taught(client, 3)
    version = kinds(client)["version"]
    moved = client.post("/v1/models/tiny:calibrate?false_alarm_rate=0.1", json={"results": "none"})
    assert moved.status_code == 200, moved.text
    forced = {"force": True, "reason": "for the test"}
    assert client.post("/v1/models/tiny:activate", json=forced).status_code == 200
    assert kinds(client)["version"] == version
    assert client.post("/v1/models/tiny:rollback").status_code == 200
    assert kinds(client)["version"] == version
    assert strongest(inspect(client, blotted(31))) == "blot"


def test_what_is_taken_back_is_forgotten(client: TestClient) -> None:
    inspected = inspect(client, checkered(1))
    results(client, 1)
    flush(client)
    where = f"/v1/results/{inspected['result_id']}/feedback"
    client.post(where, json={"kind": "confirmed_defect", "defect": "checker"})
    until(client, {"checker": 1})
    assert client.post(where, json={"kind": "withdrawn"}).status_code == 201
    assert until(client, {})["version"] is None
    assert strongest(inspect(client, checkered(2))) is None


def test_names_in_another_case_are_one_and_near_ones_are_told(client: TestClient) -> None:
    for seed, name in enumerate(["checker", "checker", "Checker"]):
        assert say(client, checkered(seed), name)["notes"] == []
        until(client, {"checker": seed + 1})
    notes = say(client, checkered(5), "cheker")["notes"]
    assert len(notes) == 1
    assert "'checker' has 3 examples" in notes[0]
    learned = until(client, {"checker": 3, "cheker": 1})
    assert [(s["kind"], s["like"]) for s in learned["similar"]] == [("checker", "cheker")]
    joined = client.put("/v1/models/tiny/kinds/cheker", json={"same_as": "checker"})
    assert joined.status_code == 200, joined.text
    until(client, {"checker": 4, "cheker": 0})
    apart = client.put("/v1/models/tiny/kinds/cheker", json={"same_as": None})
    assert apart.json()["same_as"] is None
    until(client, {"checker": 3, "cheker": 1})


def test_a_name_may_be_of_one_region(client: TestClient) -> None:
    say(client, checkered(1), "checker", regions=[0])
    assert until(client, {"checker": 1})["kinds"][0]["examples"] == 1
    inspected = inspect(client, checkered(2))
    results(client, 2)
    where = f"/v1/results/{inspected['result_id']}/feedback"
    wrong = {"kind": "confirmed_defect", "defect": "checker", "regions": [49]}
    refused = client.post(where, json=wrong)
    assert (refused.status_code, refused.json()["code"]) == (409, "feedback_contradicts")
    nameless = client.post(where, json={"kind": "confirmed_defect", "regions": [0]})
    assert nameless.status_code == 422


@pytest.mark.parametrize("name", ["x" * 10_000, "<script>alert(1)</script>", "a\0b", "a\nb"])
def test_odd_names_are_refused_and_nothing_is_lost(client: TestClient, name: str) -> None:
    inspected = inspect(client, checkered(1))
    results(client, 1)
    where = f"/v1/results/{inspected['result_id']}"
    refused = client.post(f"{where}/feedback", json={"kind": "confirmed_defect", "defect": name})
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "defect" in refused.json()["detail"]
    assert client.get(where).json()["feedback"] == []


def test_unknown_is_no_name_to_learn(client: TestClient) -> None:
    say(client, checkered(1), "unknown")
    ends = time.monotonic() + _TIME_S
    while kinds(client)["left_out"] != 1 and time.monotonic() < ends:
        time.sleep(0.05)
    assert "no name" in kinds(client)["left_out_because"][0]


def test_a_rule_lets_parts_pass_of_which_enough_is_known(client: TestClient, place: Path) -> None:
    where = "/v1/models/tiny/kinds/blot"
    assert client.put(where, json={"rule": "ignore"}).json()["code"] == "kind_unknown"
    taught(client, 3)
    refused = client.put(where, json={"rule": "ignore"})
    assert (refused.status_code, refused.json()["code"]) == (409, "kind_uncertain")
    for seed in range(3, 21):
        say(client, blotted(seed), "blot")
    until(client, {"blot": 21, "checker": 3})
    assert client.put(where, json={"rule": "ignore", "reason": "harmless"}).status_code == 200
    excused = inspect(client, blotted(60))
    assert (excused["verdict"], excused["is_anomalous"]) == ("OK", False)
    assert excused["excused"] == {"verdict": "NG", "kinds": ["blot"], "rule": "ignore"}
    assert excused["score"] > excused["threshold"]
    assert inspect(client, checkered(60))["verdict"] == "NG"
    stored = results(client, 26)[1]
    assert (stored["verdict"], stored["calibrated_verdict"]) == ("OK", "NG")
    assert client.put(where, json={"rule": "warn"}).status_code == 200
    assert inspect(client, blotted(61))["verdict"] == "WARN"
    rules = [row for row in Audit(place).rows() if row["action"] == "kind_rule"]
    assert [(row["details"]["before"], row["details"]["rule"]) for row in rules] == [
        ("none", "ignore"),
        ("ignore", "warn"),
    ]
    assert rules[0]["details"]["reason"] == "harmless"
    assert client.put(where, json={"rule": "none"}).status_code == 200
    assert inspect(client, blotted(62))["verdict"] == "NG"


def test_only_an_admin_sets_rules_and_whoever_views_reads_them(
    folder: Path, place: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    tokens = {role: {"X-API-Key": add_key(keys, role.name, role)} for role in Role}
    with line(folder, place, auth="keys", keys_file=keys) as client:
        for role in (Role.VIEW, Role.REVIEW, Role.OPERATE, Role.ADMIN):
            read = client.get("/v1/models/tiny/kinds", headers=tokens[role])
            assert read.status_code == 200
        where = "/v1/models/tiny/kinds/blot"
        for role in (Role.VIEW, Role.REVIEW, Role.OPERATE):
            assert client.put(where, json={}, headers=tokens[role]).status_code == 403
        assert client.put(where, json={}, headers=tokens[Role.ADMIN]).status_code == 404
        assert client.get("/v1/models/none/kinds", headers=tokens[Role.ADMIN]).status_code == 404


def test_examples_in_the_models_folder_name_without_a_record(
    folder: Path, place: Path, tiny_bundle: Bundle
) -> None:
    images = [(f"b{i}", "blot", blotted(i)) for i in range(4)]
    images += [(f"c{i}", "checker", checkered(i)) for i in range(4)]
    learned = examples_of_images(tiny_bundle, images)
    save_bundle(replace(tiny_bundle, examples=learned.examples), folder, "v1")
    assert load_bundle(folder).examples is not None
    with TestClient(create_app(settings(folder, record_dir=place))) as client:
        until(client, {"blot": 4, "checker": 4})
        assert strongest(inspect(client, blotted(30))) == "blot"
        refused = client.put("/v1/models/tiny/kinds/blot", json={"rule": "none"})
        assert refused.json()["code"] == "nothing_recorded"


def test_labels_go_on_under_other_weights(folder: Path, place: Path, tiny_bundle: Bundle) -> None:
    with line(folder, place) as client:
        taught(client, 3)
        before = kinds(client)
    other = deepcopy(tiny_bundle.model)
    with torch.no_grad():
        other.mae.norm.weight.mul_(1.01)
    save_bundle(replace(tiny_bundle, model=other), folder, "v2")
    with line(folder, place) as client:
        after = until(client, {"blot": 3, "checker": 3})
        assert after["weights"] != before["weights"]
        assert after["version"] != before["version"]
        assert strongest(inspect(client, blotted(31))) == "blot"
