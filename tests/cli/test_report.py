import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from record.store import Store
from tests.cli.conftest import invoke
from tests.record.test_store import result
from tests.service.routes.test_results import BAD, results, served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A record's folder with a few results of now."""
    record = tmp_path / "record"
    record.mkdir()
    store = Store.open(f"sqlite:///{record / 'results.db'}")
    now = datetime.now(UTC)
    store.add([result(n, inspected_at=now - timedelta(minutes=n)) for n in range(60)])
    store.close()
    return record


def test_the_command_reads_beside_a_service_and_changes_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    record, page = tmp_path / "record", tmp_path / "new/shift.html"
    with served(tiny_folder, record, keep="all") as client:
        client.post("/score?camera=left&part_id=P-1", content=BAD)
        results(client, 1)
        client.app.state.parts.inspector.recording._keeper.flush()  # type: ignore[attr-defined]
        journal = (record / "journal/position.json").read_bytes()
        done = invoke("report", "--folder", record, "--out", page, "--zone", "UTC")
        assert done.exit_code == 0, done.output
        assert (record / "journal/position.json").read_bytes() == journal
        client.post("/score", content=BAD)
        results(client, 2)  # the service still has its journal
    text = page.read_text(encoding="utf-8")
    assert "P-1" in text
    assert text.count("data:image/jpeg") == 1
    assert "served at a start" in text


def test_filters_language_and_zone_are_heeded(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "shift.html"
    more = ("--language", "de", "--zone", "Asia/Tokyo", "--camera", "left")
    done = invoke("report", "--since", "1d", "--folder", folder, "--out", page, *more)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "Nur Kamera left." in text
    assert "Asia/Tokyo" in text
    assert "<b>30</b>geprüfte Teile" in text


def test_a_page_of_its_own_is_replaced_and_anything_else_stays(
    folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "shift.html"
    for _ in range(2):
        assert invoke("report", "--folder", folder, "--out", page).exit_code == 0
    page.write_text("mine")
    refused = invoke("report", "--folder", folder, "--out", page)
    assert getattr(refused.exception, "code", "") == "output_refused"
    assert page.read_text() == "mine"


def test_what_is_wrong_has_a_code_and_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "shift.html"
    empty = tmp_path / "nothing"
    for arguments, code in (
        (("--since", "tomorrow"), "period_invalid"),
        (("--since", "1h", "--until", "2h"), "period_invalid"),
        (("--zone", "Mars"), "zone_unknown"),
        (("--folder", empty), "nothing_recorded"),
    ):
        failed = invoke("report", "--folder", folder, "--out", page, *arguments)
        assert getattr(failed.exception, "code", "") == code, arguments
    assert not page.exists()
    assert not empty.exists()


def test_a_database_that_is_away_is_said_so_without_its_password(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://ada:hush@127.0.0.1:1/maskline"
    monkeypatch.setenv("MASKLINE_DATABASE_URL", url)
    failed = invoke("report", "--folder", folder, "--out", tmp_path / "shift.html")
    assert getattr(failed.exception, "code", "") == "store_unavailable"
    assert "hush" not in json.dumps(str(failed.exception))
