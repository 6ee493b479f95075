import asyncio
import base64
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from record.store import Store
from service.app import create_app
from service.errors import ReportBusy
from service.report import maker
from service.report.maker import Reports
from service.report.page import POLICY
from tests.service.conftest import settings
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import BAD, GOOD, results, served


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


def test_a_report_shows_what_was_inspected(client: TestClient) -> None:
    bad = client.post("/score?camera=left&part_id=P-1&lot=L1", content=BAD).json()
    client.post("/score?camera=right", content=GOOD)
    results(client, 2)
    flush(client)
    said = {"kind": "confirmed_defect", "defect": "a + b"}
    assert client.post(f"/v1/results/{bad['result_id']}/feedback", json=said).status_code == 201
    answer = client.get("/v1/report?since=1h&language=de&zone=Europe/Berlin")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-store"
    assert "Schichtbericht" in answer.text
    assert "bestätigter Fehler: a + b" in answer.text
    data, *_ = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', answer.text)
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, max(picture.size)) == ("JPEG", 128)
    alone = client.get("/v1/report?camera=left").text
    assert "Camera left only." in alone
    assert ">right<" not in alone


def test_pictures_that_are_gone_are_left_out(client: TestClient, tmp_path: Path) -> None:
    ids = [client.post("/score", content=BAD).json()["result_id"] for _ in range(3)]
    results(client, 3)
    flush(client)
    [gone] = (tmp_path / "kept").rglob(f"{ids[0]}.image")
    [damaged] = (tmp_path / "kept").rglob(f"{ids[1]}.image")
    gone.unlink()
    damaged.write_bytes(BAD[: len(BAD) // 2])
    answer = client.get("/v1/report")
    assert answer.status_code == 200, answer.text
    assert answer.text.count("data:image/jpeg") == 1
    assert "1 of 3 parts that were not OK" in answer.text


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("since=yesterday", "period_invalid"),
        ("since=1h&until=8h", "period_invalid"),
        ("zone=Mars", "zone_unknown"),
        ("language=fr", "parameter_invalid"),
        ("since=" + "9" * 65, "parameter_invalid"),
        ("camera=<b>", "parameter_invalid"),
        ("hours=8", "parameter_invalid"),
    ],
)
def test_nonsense_has_a_stable_code(client: TestClient, query: str, code: str) -> None:
    answer = client.get(f"/v1/report?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_without_a_record_there_is_no_report(tiny_folder: Path) -> None:
    with TestClient(create_app(settings(tiny_folder))) as client:
        answer = client.get("/v1/report")
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_recorded")


def test_a_report_that_takes_long_holds_up_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/score", content=GOOD)
    results(client, 1)
    begun, may_end = threading.Event(), threading.Event()
    figures = maker._figures

    def slow(store: Store, request: Any) -> Any:
        begun.set()
        assert may_end.wait(20)
        return figures(store, request)

    monkeypatch.setattr(maker, "_figures", slow)
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(client.get("/v1/report").status_code))
    asking.start()
    assert begun.wait(20)
    assert client.post("/score?idempotency_key=K", content=GOOD).status_code == 200
    assert client.get("/v1/results").status_code == 200
    may_end.set()
    asking.join(20)
    assert answers == [200]


def test_few_reports_wait_and_more_come_later(client: TestClient) -> None:
    reports: Reports = client.app.state.parts.reports  # type: ignore[attr-defined]
    reports._waiting = 4
    with pytest.raises(ReportBusy):
        asyncio.run(reports.make(None))  # type: ignore[arg-type]
    answer = client.get("/v1/report")
    assert (answer.status_code, answer.json()["code"]) == (429, "report_busy")
    assert answer.headers["retry-after"] == "10"
    reports._waiting = 0
    assert client.get("/v1/report").status_code == 200
    assert reports._waiting == 0
