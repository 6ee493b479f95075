"""Models, their versions and what each camera has of its own, as the page shows them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from record.audit import Audit
from tests.service.recalibration.test_calibrator import uploads
from tests.service.routes.test_results import served


@pytest.fixture
def models(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "models/tiny")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(models, tmp_path / "results") as open_client:
        yield open_client


def stage(client: TestClient, query: str = "") -> str:
    answer = client.post(f"/v1/models/tiny:calibrate{query}", files=uploads(24))
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["version"]
    return version


def versions(client: TestClient) -> dict[str, Any]:
    (listed,) = client.get("/v1/models").json()["versions"]
    return dict(listed)


def test_versions_and_each_cameras_calibration_are_listed(client: TestClient) -> None:
    nothing = {"name": "tiny", "active": "v1", "staged": None, "previous": None}
    assert versions(client) == nothing
    staged = stage(client, "?camera=left&threshold=3.5")
    assert versions(client) == nothing | {"staged": staged}
    client.post("/v1/models/tiny:activate")
    assert versions(client) == nothing | {"active": staged, "previous": "v1"}
    (model,) = client.get("/v1/models").json()["models"]
    (left,) = model["camera_calibrations"]
    assert (left["camera"], left["threshold"], left["mode"]) == ("left", 3.5, "given")
    assert model["cameras"] == ["left"]


def test_why_somebody_switched_is_sealed(client: TestClient, tmp_path: Path) -> None:
    stage(client)
    client.post("/v1/models/tiny:activate", json={"reason": "new lamp"})
    client.post("/v1/models/tiny:rollback", json={"reason": "old lamp"})
    rows = Audit(tmp_path / "results").newest(2)
    assert [(row["action"], row["details"]["reason"]) for row in rows] == [
        ("rollback", "old lamp"),
        ("activate", "new lamp"),
    ]
    short = client.post("/v1/models/tiny:rollback", json={"reason": "x"})
    assert (short.status_code, short.json()["code"]) == (422, "parameter_invalid")


def test_a_staged_version_can_be_discarded_also_over_a_restart(
    models: Path, tmp_path: Path
) -> None:
    discard = "/v1/models/tiny:discard"
    with served(models, tmp_path / "results") as client:
        assert client.post(discard).json()["code"] == "nothing_staged"
        staged = stage(client)
        other = client.post(discard, json={"version": "v7"})
        assert (other.status_code, other.json()["code"]) == (409, "version_changed")
        assert versions(client)["staged"] == staged
        gone = client.post(discard, json={"version": staged, "reason": "wrong lot"}).json()
        assert (gone["active"], gone["staged"]) == ("v1", None)
        assert client.post("/v1/models/tiny:activate").json()["code"] == "nothing_staged"
        row = Audit(tmp_path / "results").newest(1)[0]
        assert (row["action"], row["details"]["reason"]) == ("discard", "wrong lot")
        assert stage(client) != staged  # the next calibration is not in its way
        client.post(discard)
    with served(models, tmp_path / "results") as client:
        assert versions(client)["active"] == "v1"


def test_a_loaded_version_that_was_discarded_does_not_serve_after_a_restart(
    models: Path, tmp_path: Path
) -> None:
    with served(models, tmp_path / "results") as client:
        newer = stage(client)
        client.post("/v1/models/tiny:activate")
        client.post("/v1/models/tiny:rollback")
        assert client.post("/v1/models/tiny:load").json()["staged"] == newer
        client.post("/v1/models/tiny:discard")
    with served(models, tmp_path / "results") as client:
        assert versions(client)["active"] == "v1"
