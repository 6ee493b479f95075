from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from record.audit import Audit
from service.app import create_app
from service.http.api_keys import Role, add_key
from tests.service.conftest import settings
from tests.service.routes.test_results import served


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path) as open_client:
        yield open_client


def test_who_changed_what_newest_first(client: TestClient, tmp_path: Path) -> None:
    Audit(tmp_path).add("rollback", "<b>flange</b>", "Zoë", reason="too many alarms")
    newest, start = client.get("/v1/audit").json()["rows"]
    assert (newest["subject"], newest["by"], newest["action"]) == (
        "<b>flange</b>",
        "Zoë",
        "rollback",
    )
    assert newest["details"] == {"reason": "too many alarms"}
    assert set(newest) == {"number", "at", "by", "action", "subject", "details"}
    assert (start["action"], start["by"]) == ("start", "service")
    only = client.get("/v1/audit", params={"subject": "tiny"}).json()["rows"]
    assert [row["subject"] for row in only] == ["tiny"]
    assert len(client.get("/v1/audit?limit=1").json()["rows"]) == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", f"subject={257 * 'x'}", "since=now"])
def test_a_query_that_makes_no_sense_is_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/audit?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")


def test_a_damaged_trail_is_shown_as_far_as_it_can_be(client: TestClient, tmp_path: Path) -> None:
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"number": 9, "hash": "0"}\n{"half')
    (start,) = client.get("/v1/audit").json()["rows"]
    assert start["action"] == "start"


def test_without_a_record_there_is_no_trail(tiny_folder: Path) -> None:
    with TestClient(create_app(settings(tiny_folder))) as client:
        answer = client.get("/v1/audit")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_recorded")


def test_a_key_that_only_scores_reads_no_trail(tiny_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    score, operate = (add_key(keys, role.name, role) for role in (Role.SCORE, Role.OPERATE))
    with served(tiny_folder, tmp_path / "r", auth="keys", keys_file=keys) as client:
        refused = client.get("/v1/audit", headers={"X-API-Key": score})
        assert (refused.status_code, refused.json()["code"]) == (403, "role_insufficient")
        assert client.get("/v1/audit", headers={"X-API-Key": operate}).status_code == 200
