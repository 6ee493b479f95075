"""Whatever passes the door can be stored, and comes back as it was."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from record.journal import Journal
from record.result import Result
from record.store import Filter, Store
from record.writer import Writer
from service.feedback import FeedbackIn
from service.results.idempotency import RepeatKey
from service.schemas.models import ActivateIn
from service.schemas.results import ResultOut
from service.schemas.scoring import ScoreQuery
from service.wire import Moment
from tests.record.conftest import postgres, url
from tests.record.test_store import result, spoken
from tests.service.routes.test_results import GOOD, results, served

__all__ = ["postgres", "url"]  # fixtures

TEXTS = (
    st.text(st.characters(codec=None), max_size=140)
    | st.text("aé٣ .:/@+-_\0\ud800", max_size=130)
    | st.text("aé٣ .:/@+-_", max_size=128)  # so that enough are accepted, whatever is drawn
)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=st.none() | ZONES) | st.sampled_from(
    [
        datetime.min,
        datetime.max,
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59))),
    ]
)
WRITTEN = MOMENTS.map(lambda moment: moment.isoformat()) | st.integers().map(str) | TEXTS
NUMBERS = st.floats().map(str) | st.integers(-(10**320), 10**320).map(str)


@st.composite
def queries(draw: st.DrawFn) -> dict[str, str]:
    """Any parameters as they come: texts."""
    named = {
        **dict.fromkeys(("part_id", "camera", "lot", "program", "idempotency_key"), TEXTS),
        **dict.fromkeys(("threshold", "false_alarm_rate", "deadline_ms"), NUMBERS),
        "triggered_at": WRITTEN,
    }
    chosen = draw(st.lists(st.sampled_from(sorted(named)), unique=True, max_size=4))
    return {name: draw(named[name]) for name in chosen}


def stored_as(query: ScoreQuery, number: int) -> Result:
    """A result as `Recording.keep` writes it."""
    asked = query.model_dump(include={"part_id", "camera", "lot", "program", "triggered_at"})
    changes: dict[str, Any] = asked | {"inspected_at": datetime.now(UTC)}
    if query.threshold is not None:
        changes["threshold"] = query.threshold
    if query.idempotency_key is not None:
        key = RepeatKey.of(query, caller="k" * 64, image_sha256="0", item=999)
        changes |= {"idempotency_key": key.scoped, "fingerprint": key.fingerprint}
    return result(number, regions=[], **changes)


def brought(folder: Path, url: str, results: list[Result]) -> Store:
    """Bring results the way of the service: a line of the journal, then the store."""
    refused = folder / "refused.jsonl"
    writer = Writer(Journal(folder / "journal"), lambda: Store.open(url), refused)
    assert all(writer.keep(one) for one in results)
    writer.close()
    assert not refused.exists(), refused.read_text()
    return Store.open(url)


def test_what_validates_is_stored_and_comes_back(tmp_path: Path, url: str) -> None:
    asked: list[dict[str, str]] = []

    @hypothesis_settings(max_examples=400, deadline=None, database=None)
    @given(query=queries())
    def gather(query: dict[str, str]) -> None:
        asked.append(query)

    gather()
    check(tmp_path, url, [*asked, *EXTREMES])


def check(folder: Path, address: str, asked: list[dict[str, str]]) -> None:
    accepted = []
    for one in asked:
        try:
            accepted.append(ScoreQuery.model_validate(one))
        except ValidationError:
            continue
    assert len(accepted) > len(asked) / 10
    kept = [stored_as(query, number) for number, query in enumerate(accepted)]
    store = brought(folder, address, kept)
    try:
        for query, wanted in zip(accepted, kept, strict=True):
            found = store.find(wanted.result_id)
            assert found is not None
            # The first of two results has the key.
            anonymous = {"id": None, "idempotency_key": None, "fingerprint": None}
            assert replace(found, **anonymous) == replace(wanted, **anonymous)
            out = ResultOut.of(found).model_dump(mode="json")
            assert out["part_id"] == query.part_id
            if query.triggered_at is not None:
                assert ResultOut.of(found).triggered_at == query.triggered_at
            if wanted.idempotency_key is not None:
                assert store.repeated(wanted.idempotency_key) is not None
    finally:
        store.close()


EXTREMES: list[dict[str, str]] = [
    {
        "part_id": "ü" * 128,
        "camera": "٣" * 128,
        "idempotency_key": "漢" * 128,
        "lot": "",
        "program": " ",
    },
    {"threshold": "1.7976931348623157e308"},
    {"threshold": "5e-324"},
    {"threshold": "-0.0"},
    {"triggered_at": "0001-01-02T00:00:00Z"},
    {"triggered_at": "0001-01-01T00:00:00"},
    {"triggered_at": "9999-12-30T23:59:59.999999Z"},
    {"triggered_at": "9999-12-31T23:59:59.999999-23:59"},
    {"triggered_at": "0001-01-01T00:00:00+23:59"},
    {"triggered_at": "1e12"},
    {"triggered_at": "-62135596800"},
    *({name: f"a{c}b"} for name in ("part_id", "lot") for c in "\0\n\r\x7f\ud800\U0001f600"),
]


def test_what_people_write_is_stored_by_each_database_or_refused(url: str) -> None:
    store = Store.open(url)
    store.add([result(1)])
    stored = 0
    for comment in ("a\0b", "\ud800", "\n\t\x1b", "\U0001f600" * 1000, "a" * 1001, "'; drop"):
        try:
            said = FeedbackIn(kind="false_alarm", comment=comment, defect="x")
        except ValidationError:
            continue
        assert store.add_feedback(spoken(1, **said.model_dump())) is not None
        stored += 1
        assert store.feedback_on(f"{1:032x}")[0].comment == comment
    store.close()
    assert stored == 3
    with pytest.raises(ValidationError):
        ActivateIn(force=True, reason="bad\0text")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles", "UTC"])
@given(moment=st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_moment_without_a_zone_is_utc(zone: str, moment: datetime) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        read = TypeAdapter(Moment).validate_python(moment.isoformat())
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()
    assert read == moment.replace(tzinfo=UTC)
    assert read.utcoffset() == timedelta(0)


@pytest.fixture
def in_tokyo(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    try:
        with served(tiny_folder, tmp_path) as client:
            yield client
    finally:
        os.environ.pop("TZ")
        time.tzset()


def test_every_filter_reads_a_moment_without_a_zone_as_utc(in_tokyo: TestClient) -> None:
    client = in_tokyo
    client.post("/score?triggered_at=2026-03-01T12:00:00", content=GOOD)
    (stored,) = results(client, 1)
    assert stored["triggered_at"] == "2026-03-01T12:00:00Z"
    now = datetime.now(UTC).replace(tzinfo=None)
    later, earlier = ((now + timedelta(hours=h)).isoformat() for h in (1, -1))
    for path in ("/v1/results", "/v1/results:export"):
        for query, finds in (
            (f"since={later}", False),
            (f"since={earlier}", True),
            (f"until={later}", True),
            (f"until={earlier}", False),
        ):
            assert (stored["result_id"] in client.get(f"{path}?{query}").text) is finds
    line = client.get("/v1/results:export?form=csv").text.splitlines()[1]
    assert "2026-03-01T12:00:00Z" in line
    for where in ("since", "until"):
        refused = client.get(f"/v1/results?{where}=0001-01-01T00:00:00%2B05:00")
        assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B23:59"]
)
def test_a_moment_that_cannot_be_stored_is_refused(client: TestClient, moment: str) -> None:
    refused = client.post(f"/score?triggered_at={moment}", content=GOOD)
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "triggered_at" in refused.json()["detail"]


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf", "1e999", "-1", "-1e-9"])
def test_a_threshold_that_is_none_is_refused(client: TestClient, threshold: str) -> None:
    refused = client.post(f"/score?threshold={threshold}", content=GOOD)
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")


def test_an_id_that_is_none_is_not_found(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path) as client:
        for result in ("%00", "a%00", "%ED%A0%80", "a'b", "é", "-1", "a" * 5000):
            for path in (result, f"{result}/image", f"{result}/heatmap"):
                answer = client.get(f"/v1/results/{path}")
                assert (answer.status_code, answer.json()["code"]) == (404, "result_not_found")
            said = client.post(f"/v1/results/{result}/feedback", json={"kind": "false_alarm"})
            assert (said.status_code, said.json()["code"]) == (404, "result_not_found")
        wrong = {"kind": "false_alarm", "comment": "a\0b"}
        refused = client.post("/v1/results/a/feedback", json=wrong)
        assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")


def test_filters_compare_moments_in_any_zone(url: str) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    store = Store.open(url)
    store.add([result(1, inspected_at=noon)])
    for zone in (timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))):
        local = noon.astimezone(zone)
        assert store.page(Filter(since=local)).results
        assert not store.page(Filter(until=local)).results
    store.close()
