import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from record.store import Store, StoreError
from service.app import create_app
from service.errors import StartError
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))
BAD = png(planted(normal_pixels(6001), 80, 40, 12))


def served(models: Path, folder: Path, **changes: Any) -> TestClient:
    app = create_app(settings(models, record="on", record_dir=folder, **changes))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path) as open_client:
        yield open_client


def results(client: TestClient, count: int, query: str = "") -> list[dict[str, Any]]:
    """Return stored results once there are so many: they come a moment after their answers."""
    for _ in range(300):
        answer = client.get(f"/v1/results{query}")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["results"]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{len(found)} results, not {count}")


def test_what_was_answered_is_stored_as_it_was(client: TestClient) -> None:
    query = "part_id=A-7&lot=L1&camera=c1&program=R2&triggered_at=2026-03-01T12:00:00%2B02:00"
    answer = client.post(f"/score?{query}", content=BAD).json()
    (stored,) = results(client, 1)
    for name in ("result_id", "part_id", "lot", "camera", "verdict", "score", "threshold"):
        assert stored[name] == answer[name]
    assert stored["regions"] == answer["regions"]
    assert (stored["program"], stored["triggered_at"]) == ("R2", "2026-03-01T10:00:00Z")
    assert stored["digest"] == answer["model"]["digest"]
    assert len(stored["image_sha256"]) == 64
    assert set(stored["timings"]) == {"read", "decode", "queue", "inference"}
    assert client.get(f"/v1/results/{answer['result_id']}").json() == stored | {
        "feedback": [],
        "mask": False,
    }
    assert client.get("/v1/results/none").json()["code"] == "result_not_found"


def test_every_way_to_ask_is_recorded_and_a_refused_image_is_not(client: TestClient) -> None:
    files = [("file", (f"{i}.png", GOOD, "image/png")) for i in range(3)]
    assert client.post("/v1/score/batch", files=files).status_code == 200
    lookout = "/2020-11-20/projects/tiny/models/1/detect"
    assert client.post(lookout, content=GOOD, headers={"content-type": "image/png"}).is_success
    assert client.post("/score", content=GOOD[:200]).status_code == 400
    assert len(results(client, 4)) == 4


def test_filters_and_pages(client: TestClient) -> None:
    for number in range(5):
        client.post(f"/score?part_id=P{number}&camera=c{number % 2}&threshold=1e6", content=GOOD)
    client.post("/score?part_id=bad", content=BAD)
    results(client, 6)
    assert [one["part_id"] for one in results(client, 1, "?verdict=NG")] == ["bad"]
    assert [one["part_id"] for one in results(client, 3, "?camera=c0")] == ["P4", "P2", "P0"]
    first = client.get("/v1/results?limit=4").json()
    second = client.get(f"/v1/results?limit=4&cursor={first['cursor']}").json()
    names = [one["part_id"] for one in first["results"] + second["results"]]
    assert names == ["bad", "P4", "P3", "P2", "P1", "P0"]
    assert second["cursor"] is None
    assert client.get("/v1/results?verdict=maybe").json()["code"] == "parameter_invalid"


def test_all_of_them_as_json_lines_and_csv(client: TestClient) -> None:
    for number in range(3):
        client.post(f"/score?part_id={number}&lot=L", content=BAD)
    client.post("/score?part_id=9&lot=-1", content=BAD)
    listed = results(client, 4)
    lines = client.get("/v1/results:export").text.splitlines()
    assert [json.loads(line) for line in lines] == listed
    table = list(csv.DictReader(io.StringIO(client.get("/v1/results:export?form=csv").text)))
    assert [row["part_id"] for row in table] == [one["part_id"] for one in listed]
    assert table[0]["lot"] == "'-1"  # no formula
    assert json.loads(table[0]["regions"]) == listed[0]["regions"]
    assert float(table[0]["score"]) == listed[0]["score"]


def test_a_repeated_request_gets_the_first_result(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path) as client:
        first = client.post("/score?idempotency_key=K1&part_id=A", content=BAD).json()
        again = client.post("/score?idempotency_key=K1&part_id=A", content=BAD).json()
        assert again == first | {"heatmap": None}
        assert client.post("/score?idempotency_key=K2", content=GOOD[:99]).status_code == 400
        assert client.post("/score?idempotency_key=K2", content=GOOD).status_code == 200
        assert len(results(client, 2)) == 2
    with served(tiny_folder, tmp_path) as client:  # after a restart the store remembers
        again = client.post("/score?idempotency_key=K1&part_id=A", content=BAD).json()
        assert again["result_id"] == first["result_id"]
        assert again["regions"] == first["regions"]
        assert len(results(client, 2)) == 2


def test_a_store_that_is_away_fails_no_inspection_and_gets_everything_later(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store.open

    def away(url: str) -> Store:
        raise StoreError("away")

    monkeypatch.setattr(Store, "open", away)
    with served(tiny_folder, tmp_path) as client:
        for number in range(3):
            asked = client.post(f"/score?idempotency_key=N{number}", content=GOOD)
            assert asked.status_code == 200  # a new key needs no database
            again = client.post(f"/score?idempotency_key=N{number}", content=GOOD).json()
            assert again["result_id"] == asked.json()["result_id"]
        refused = client.get("/v1/results")
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert "maskline_record_behind_bytes 0.0" not in client.get("/metrics").text
        monkeypatch.setattr(Store, "open", whole)
        assert len(results(client, 3)) == 3


def test_a_store_that_hangs_holds_up_no_repeated_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.results.recording._LOOKUP_S", 0.1)
    gate = threading.Event()
    monkeypatch.setattr(Store, "repeated", lambda self, key: gate.wait(20) and None)
    started = time.monotonic()
    assert client.post("/score?idempotency_key=H", content=GOOD).status_code == 200
    assert time.monotonic() - started < 5
    gate.set()


def test_a_full_disk_is_counted_and_fails_no_inspection(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("record.journal.Journal.append", lambda self, row: False)
    assert client.post("/score", content=GOOD).status_code == 200
    assert "maskline_record_lost_total 1.0" in client.get("/metrics").text


def test_without_a_record_there_are_no_results(tiny_folder: Path) -> None:
    with TestClient(create_app(settings(tiny_folder))) as client:
        answer = client.get("/v1/results")
    assert (answer.status_code, answer.json()["code"]) == (404, "nothing_recorded")


def test_what_cannot_be_used_stops_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StartError, match="MASKLINE_RECORD_DIR") as caught,
        served(tiny_folder, tmp_path / "file"),
    ):
        pass
    assert caught.value.code == "record_unusable"
    with (
        pytest.raises(StartError, match="MASKLINE_DATABASE_URL"),
        served(tiny_folder, tmp_path, database_url="mysql://x/y"),
    ):
        pass


def test_feedback_is_kept_with_its_result_and_the_last_counts(client: TestClient) -> None:
    bad = client.post("/score?part_id=bad", content=BAD).json()["result_id"]
    good = client.post("/score?part_id=good&threshold=1e6", content=GOOD).json()["result_id"]
    results(client, 2)

    def say(result: str, **said: str) -> Any:
        return client.post(f"/v1/results/{result}/feedback", json=said)

    assert say(bad, kind="confirmed_defect", defect="pore").status_code == 201
    answer = say(bad, kind="false_alarm", comment="dust")
    assert answer.json() | {"created_at": ""} == {
        "kind": "false_alarm",
        "defect": None,
        "comment": "dust",
        "created_at": "",
        "author": None,
        "regions": None,
        "notes": [],
    }
    said = client.get(f"/v1/results/{bad}").json()["feedback"]
    assert [one["kind"] for one in said] == ["false_alarm", "confirmed_defect"]
    assert [one["part_id"] for one in results(client, 1, "?feedback=false_alarm")] == ["bad"]
    assert client.get("/v1/results?feedback=confirmed_defect").json()["results"] == []
    assert say(good, kind="missed_defect").status_code == 201
    contradiction = say(good, kind="false_alarm")
    assert (contradiction.status_code, contradiction.json()["code"]) == (
        409,
        "feedback_contradicts",
    )
    assert say("none", kind="false_alarm").json()["code"] == "result_not_found"
    assert say(bad, kind="nonsense").json()["code"] == "parameter_invalid"


def test_what_a_page_looks_for(client: TestClient) -> None:
    for number in range(3):
        client.post(f"/score?part_id=A_{number}&lot=L{number}&threshold=1e6", content=GOOD)
    bad = client.post("/score?part_id=B&lot=A_&threshold=0.001", content=BAD).json()["result_id"]
    results(client, 4)

    def parts(query: str) -> list[str]:
        return [one["part_id"] for one in results(client, 0, query)]

    assert parts("?search=A_") == ["B", "A_2", "A_1", "A_0"]
    assert parts("?search=A_1") == ["A_1"]
    assert parts("?search=A%25") == []
    assert parts("?order=oldest&verdict=OK&verdict=NG&limit=2") == ["A_0", "A_1"]
    kept, not_kept = results(client, 0, "?kept=true"), results(client, 0, "?kept=false")
    assert [one["kept"] for one in kept] == [True] * len(kept)
    assert len(kept) + len(not_kept) == 4
    said = client.post(
        f"/v1/results/{bad}/feedback", json={"kind": "confirmed_defect", "defect": "pore"}
    )
    assert said.status_code == 201
    assert (parts("?defect=pore"), parts("?feedback=none")) == (["B"], ["A_2", "A_1", "A_0"])
    lines = client.get("/v1/results:export?order=oldest&search=A_&verdict=OK").text.splitlines()
    assert [json.loads(line)["part_id"] for line in lines] == ["A_0", "A_1", "A_2"]
    first = client.get("/v1/results?order=oldest&limit=3").json()["cursor"]
    assert parts(f"?order=oldest&cursor={first}") == ["B"]
    refused = client.get(f"/v1/results?cursor={first}")
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "other order" in refused.json()["detail"]
