"""What a new version is held against, who may change that, and which version is meant."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle
from record.audit import Audit
from record.result import Discussed
from service.errors import FeedbackContradicts, NothingStaged, RoleInsufficient, VersionChanged
from service.feedback import Change, Speaker, change_of
from service.http.api_keys import Role, add_key
from tests.record.test_store import NOON, result, spoken
from tests.service.recalibration.test_calibrator import (
    BAD,
    part,
    save_with_other_weights,
    say,
    uploads,
)
from tests.service.results.test_evidence import flush
from tests.service.routes.test_results import results, served

ACTIVATE, CALIBRATE = "/v1/models/tiny:activate", "/v1/models/tiny:calibrate"


@pytest.fixture
def models(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "models/tiny")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(models, tmp_path / "results", keep="all") as open_client:
        yield open_client


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def inspected(client: TestClient, image: bytes, query: str = "") -> dict[str, Any]:
    before = len(client.get("/v1/results?limit=1000").json()["results"])
    answer: dict[str, Any] = client.post(f"/score?heatmap=none&{query}", content=image).json()
    results(client, before + 1, "?limit=1000")
    flush(client)
    return answer


def confirmed(client: TestClient, image: bytes = BAD, query: str = "") -> str:
    result: str = inspected(client, image, query)["result_id"]
    say(client, result, "confirmed_defect")
    return result


def sealed(tmp_path: Path) -> list[tuple[Any, Any]]:
    trail = Audit(tmp_path / "results")
    trail.verify()
    rows = [row for row in trail.rows() if row["action"] == "feedback"]
    return [(row["details"]["before"], row["details"]["kind"]) for row in rows]


def test_what_a_request_asks_for_makes_no_defect_normal_and_bends_no_metric(
    models: Path, tmp_path: Path
) -> None:
    with served(models, tmp_path / "results", keep="anomalies") as client:
        for query in ("threshold=1e9", "threshold=1e308", "false_alarm_rate=0.000001"):
            answer = inspected(client, BAD, query)
            (stored, *_) = client.get("/v1/results").json()["results"]
            assert (stored["verdict"], stored["calibrated_verdict"]) == (answer["verdict"], "NG")
            assert stored["kept"] is True
        assert client.get("/v1/results?verdict=OK").json()["results"]
        text = client.get("/metrics").text
        assert 'maskline_inspections_total{camera="none",model="tiny",verdict="NG"} 3.0' in text
        assert 'verdict="OK"' not in text
        nothing = client.post(CALIBRATE, json={})
        assert nothing.json()["detail"].startswith("0 normal parts")
        strict = inspected(client, part(6500), "threshold=0")
        assert strict["verdict"] == "NG"
        assert client.get("/v1/results").json()["results"][0]["calibrated_verdict"] == "OK"
        # The line rejected it and nobody said that it was good: it is no normal part either.
        assert client.post(CALIBRATE, json={}).json()["detail"].startswith("0 normal parts")


def gone(file: Path) -> None:
    file.unlink()


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("other_weights", [False, True])
def test_a_confirmed_defect_is_judged_or_keeps_the_version_out(
    client: TestClient, models: Path, tmp_path: Path, tiny_bundle: Bundle, other_weights: bool
) -> None:
    both, missing = ("image", "evidence"), []
    for harm in (gone, damaged):
        for harmed in (("image",), ("evidence",), both):
            defect = confirmed(client)
            for kind in harmed:
                harm(tmp_path / f"results/kept/cases/{defect}.{kind}")
            # The weights that gathered the evidence need no image; others need nothing else.
            if harmed == both or (harmed == ("image",) and other_weights):
                missing.append(defect)
    if other_weights:
        save_with_other_weights(tiny_bundle, models / "tiny", "v2")
        client.post("/v1/models/tiny:load")
    else:
        review = client.post(CALIBRATE, files=uploads(24)).json()["review"]
        assert review["defects"] == 6 - len(missing)
        assert sorted(review["defects_missing"]) == sorted(missing)
        assert any("cannot be judged" in line for line in review["messages"])
    refused = client.post(ACTIVATE)
    assert code(refused) == (409, "cases_missing")
    assert f"{len(missing)} of 6" in refused.json()["detail"]
    assert all(defect in refused.json()["detail"] for defect in missing)
    forced = client.post(ACTIVATE, json={"force": True, "reason": "the disk broke"})
    assert forced.status_code == 200


def test_a_defect_that_would_pass_is_told_before_one_that_is_gone(
    client: TestClient, tmp_path: Path
) -> None:
    passing = confirmed(client, part(6500), "threshold=0")
    lost = confirmed(client)
    client.post(CALIBRATE, files=uploads(24))
    for file in (tmp_path / "results/kept/cases").glob(f"{lost}.*"):
        file.unlink()
    refused = client.post(ACTIVATE)
    assert code(refused) == (409, "defects_would_pass")
    assert "1 of 2" in refused.json()["detail"]
    assert passing in refused.json()["detail"]


def test_defects_that_were_never_kept_are_counted_and_keep_nothing_out(
    models: Path, tmp_path: Path
) -> None:
    with served(models, tmp_path / "results", keep="none") as client:
        answer = client.post("/score", content=BAD).json()
        results(client, 1)
        say(client, answer["result_id"], "confirmed_defect")
        review = client.post(CALIBRATE, files=uploads(24)).json()["review"]
        assert (review["defects"], review["defects_not_kept"]) == (0, 1)
        assert (
            "1 confirmed defects were never kept: nothing can be said of them."
            in review["messages"]
        )
        assert client.post(ACTIVATE).status_code == 200


def test_a_result_whose_files_went_before_anybody_spoke_is_no_case(
    client: TestClient, tmp_path: Path
) -> None:
    result = inspected(client, BAD)["result_id"]
    for file in (tmp_path / "results/kept").rglob(f"{result}.*"):
        file.unlink()
    say(client, result, "confirmed_defect")
    assert client.get(f"/v1/results/{result}").json()["kept"] is False
    assert client.post(f"{CALIBRATE}?activate=true", files=uploads(24)).status_code == 200
    assert sealed(tmp_path) == [(None, "confirmed_defect")]


def test_an_old_defect_behind_many_new_ones_is_judged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.recalibration.reviewer._CHUNK", 2)
    oldest = confirmed(client, part(6500), "threshold=0")
    for _ in range(4):
        confirmed(client)
    client.post(CALIBRATE, files=uploads(24))
    refused = client.post(ACTIVATE)
    assert code(refused) == (409, "defects_would_pass")
    assert oldest in refused.json()["detail"]


def test_a_defect_confirmed_while_the_others_are_judged_counts(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed(client)
    late = inspected(client, part(6500), "threshold=0")["result_id"]
    client.post(CALIBRATE, files=uploads(24))
    recording = client.app.state.parts.inspector.recording  # type: ignore[attr-defined]
    evidence, asked = recording.evidence, 0

    async def meanwhile(rows: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            answer = asyncio.to_thread(
                client.post, f"/v1/results/{late}/feedback", json={"kind": "confirmed_defect"}
            )
            assert (await answer).status_code == 201
        return await evidence(rows)

    monkeypatch.setattr(recording, "evidence", meanwhile)
    refused = client.post(ACTIVATE)
    assert code(refused) == (409, "defects_would_pass")
    assert late in refused.json()["detail"]
    assert asked == 2


def test_the_version_that_was_looked_at_is_the_one_that_serves(client: TestClient) -> None:
    first = client.post(CALIBRATE, files=uploads(24)).json()["version"]
    second = client.post(f"{CALIBRATE}?false_alarm_rate=0.2", files=uploads(30)).json()["version"]
    admin = {"force": True, "reason": "I looked at it"}
    for how in (
        {"json": {"version": first}},
        {"params": {"version": first}},
        {"json": {"version": first} | admin},
    ):
        refused = client.post(ACTIVATE, **how)
        assert code(refused) == (409, "version_changed")
        assert second in refused.json()["detail"]
        assert client.get("/v1/models").json()["models"][0]["version"] == "v1"
    assert client.post(ACTIVATE, json={"version": second}).json()["active"] == second
    assert code(client.post(ACTIVATE, json={"version": second})) == (409, "nothing_staged")
    back = "/v1/models/tiny:rollback"
    assert code(client.post(back, json={"version": second})) == (409, "version_changed")
    assert client.post(back, params={"version": "v1"}).json()["active"] == "v1"
    assert client.post(back).json()["active"] == second


def test_a_version_that_is_replaced_while_it_is_checked_does_not_serve(
    client: TestClient,
) -> None:
    version = client.post(CALIBRATE, files=uploads(24)).json()["version"]
    registry = client.app.state.parts.registry  # type: ignore[attr-defined]
    slot = registry.slots["tiny"]
    staged = slot.staged

    async def replaced(candidate: Any, *, by: Any) -> None:
        slot.staged = by

    for instead, wanted in ((None, NothingStaged), (slot.active, VersionChanged)):
        gate = partial(replaced, by=instead)
        for meant in (None, version):
            slot.staged = staged
            with pytest.raises(wanted):
                client.portal.call(  # type: ignore[union-attr]
                    partial(registry.activate, "tiny", gate=gate, version=meant)
                )
    assert slot.active.bundle.version == "v1"


def test_calibrating_and_activating_serves_what_was_calibrated(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = client.app.state.parts.registry  # type: ignore[attr-defined]
    asked: list[Any] = []
    activate = registry.activate

    async def noted(name: str, **how: Any) -> Any:
        asked.append(how)
        return await activate(name, **how)

    monkeypatch.setattr(registry, "activate", noted)
    done = client.post(f"{CALIBRATE}?activate=true", files=uploads(24)).json()
    gate = client.app.state.parts.gate  # type: ignore[attr-defined]
    assert asked == [{"version": done["version"], "gate": gate}]
    assert gate is not None


# Before, now, whether an operator may, whether it is sealed.
CHANGES = [
    ("NG", None, "false_alarm", True, False),
    ("NG", None, "confirmed_defect", True, True),
    ("NG", "false_alarm", "false_alarm", True, False),
    ("NG", "false_alarm", "confirmed_defect", True, True),
    ("NG", "confirmed_defect", "confirmed_defect", True, False),
    ("NG", "confirmed_defect", "false_alarm", False, True),
    *(
        one
        for verdict in ("OK", "WARN")
        for one in (
            (verdict, None, "confirmed_good", True, False),
            (verdict, None, "missed_defect", True, True),
            (verdict, "confirmed_good", "confirmed_good", True, False),
            (verdict, "confirmed_good", "missed_defect", True, True),
            (verdict, "missed_defect", "missed_defect", True, False),
            (verdict, "missed_defect", "confirmed_good", True, True),
        )
    ),
]


def discussed(verdict: str, *said: str, calibrated_verdict: str | None = None) -> Discussed:
    """A result, and what was said of it, the last first."""
    numbered = zip(said, range(7, 0, -4), strict=False)
    feedback = [replace(spoken(1, kind), id=number) for kind, number in numbered]
    judged = result(1, verdict=verdict, calibrated_verdict=calibrated_verdict or verdict)
    return Discussed(judged, tuple(feedback))


def changed(
    case: Discussed, kind: str, *, is_admin: bool, author: str = "q", after_s: float = 0
) -> Change:
    """What it changes to say this some seconds after noon, when all else was said."""
    speaker = Speaker(author, is_admin, NOON + timedelta(seconds=after_s))
    return change_of(case, kind, speaker, is_there=True)


@pytest.mark.parametrize(("verdict", "before", "kind", "may_operate", "is_sealed"), CHANGES)
def test_who_may_change_a_case_and_whether_it_is_sealed(
    verdict: str, before: str | None, kind: str, may_operate: bool, is_sealed: bool
) -> None:
    said = [] if before is None else [before, kind]
    case = discussed(verdict, *said)
    change = changed(case, kind, is_admin=True)
    assert (change.is_sealed, change.before, change.after) == (is_sealed, before, 7 if said else 0)
    if may_operate:
        assert changed(case, kind, is_admin=False) == change
    else:
        with pytest.raises(RoleInsufficient):
            changed(case, kind, is_admin=False)


@pytest.mark.parametrize("verdict", ["OK", "WARN", "NG"])
def test_feedback_fits_its_verdict(verdict: str) -> None:
    fits = {kind for one, _, kind, *_ in CHANGES if one == verdict}
    for kind in ("false_alarm", "confirmed_defect", "missed_defect", "confirmed_good"):
        if kind not in fits:
            with pytest.raises(FeedbackContradicts):
                changed(discussed(verdict), kind, is_admin=True)


def test_only_an_admin_takes_a_confirmed_defect_back_and_the_trail_has_it(
    models: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    operate, admin = (add_key(keys, role.name, role) for role in (Role.OPERATE, Role.ADMIN))
    with served(models, tmp_path / "results", auth="keys", keys_file=keys) as client:

        def ask(path: str, key: str, **sent: Any) -> Any:
            return client.post(path, headers={"X-API-Key": key}, **sent)

        defect = ask("/score?threshold=0", operate, content=part(6500)).json()["result_id"]
        flush(client)
        said = f"/v1/results/{defect}/feedback"
        while ask(said, operate, json={"kind": "confirmed_defect"}).status_code == 404:
            pass  # it is stored a moment later
        ask(CALIBRATE, operate, files=uploads(24))
        assert code(ask(ACTIVATE, operate)) == (409, "defects_would_pass")
        refused = ask(said, operate, json={"kind": "false_alarm"})
        assert code(refused) == (403, "role_insufficient")
        assert code(ask(ACTIVATE, operate)) == (409, "defects_would_pass")
        assert sealed(tmp_path) == [(None, "confirmed_defect")]
        assert ask(said, operate, json={"kind": "confirmed_defect"}).status_code == 201
        assert ask(said, admin, json={"kind": "false_alarm"}).status_code == 201
        assert ask(ACTIVATE, operate).status_code == 200
        assert sealed(tmp_path)[1:] == [("confirmed_defect", "false_alarm")]
        last = list(Audit(tmp_path / "results").rows())[-2]
        assert (last["by"], last["subject"]) == ("ADMIN", defect)


def test_what_cannot_be_sealed_is_not_said(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = inspected(client, BAD)["result_id"]
    say(client, result, "false_alarm")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Audit, "add", full)
    refused = client.post(f"/v1/results/{result}/feedback", json={"kind": "confirmed_defect"})
    assert code(refused) == (503, "audit_unwritable")
    said = client.get(f"/v1/results/{result}").json()["feedback"]
    assert [one["kind"] for one in said] == ["false_alarm"]


def test_an_admin_takes_note_of_a_case_that_is_gone(client: TestClient, tmp_path: Path) -> None:
    defect = confirmed(client)
    client.post(CALIBRATE, files=uploads(24))
    for file in (tmp_path / "results/kept/cases").glob(f"{defect}.*"):
        file.unlink()
    assert code(client.post(ACTIVATE)) == (409, "cases_missing")
    say(client, defect, "confirmed_defect")  # without keys everybody is an admin
    assert client.post(ACTIVATE).status_code == 200
    assert sealed(tmp_path) == [
        (None, "confirmed_defect"),
        ("confirmed_defect", "confirmed_defect"),
    ]


def test_what_passed_and_was_missed_does_not_keep_a_version_out(client: TestClient) -> None:
    answer = inspected(client, part(6500))
    assert answer["verdict"] == "OK"
    say(client, answer["result_id"], "missed_defect")
    review = client.post(f"{CALIBRATE}?activate=true", files=uploads(24)).json()["review"]
    assert (review["missed"], review["missed_not_judged"], review["defects"]) == (1, 0, 0)


def test_a_defect_that_only_a_requests_threshold_let_pass_keeps_a_version_out(
    client: TestClient,
) -> None:
    strict = client.post(f"{CALIBRATE}?activate=true&false_alarm_rate=0.9", files=uploads(24))
    threshold = strict.json()["statement"]["threshold"]
    for seed in range(6500, 6520):
        answer = inspected(client, part(seed), "threshold=1e9")
        if answer["score"] > threshold:
            break
    say(client, answer["result_id"], "missed_defect")
    usual = client.post(f"{CALIBRATE}?false_alarm_rate=0.05", files=uploads(24)).json()
    assert (usual["review"]["missed"], usual["review"]["defects"]) == (0, 1)
    assert code(client.post(ACTIVATE)) == (409, "defects_would_pass")
    said = discussed("OK", "missed_defect", calibrated_verdict="NG")
    with pytest.raises(RoleInsufficient):
        changed(said, "confirmed_good", is_admin=False)
