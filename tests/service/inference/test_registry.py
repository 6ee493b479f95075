"""Versions of models: loading, switching under load, going back, evicting."""

import shutil
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.errors import ModelCorrupt
from record.audit import Audit
from service.app import create_app
from service.errors import AuditUnwritable
from service.inference import model_reader, registry
from service.inference.version_archive import Archive, ChosenVersion
from tests.conftest import is_freed, normal_pixels, png
from tests.service.conftest import settings

GOOD = png(normal_pixels(6000))


@pytest.fixture
def models(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(tiny_bundle, tmp_path / "models/left", "v1")
    save_bundle(tiny_bundle, tmp_path / "models/right", "v1")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(models, default_model="left"))) as open_client:
        yield open_client


def publish(bundle: Bundle, folder: Path, version: str, rate: float = 0.05) -> None:
    assert bundle.calibration is not None
    calibration = replace(bundle.calibration, false_alarm_rate=rate)
    save_bundle(replace(bundle, calibration=calibration), folder, version)


def serving(client: TestClient, model: str = "left") -> str:
    version: str = client.post(f"/score?model={model}", content=GOOD).json()["model"]["version"]
    return version


def test_a_new_version_is_staged_activated_and_rolled_back(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    publish(tiny_bundle, models / "left", "v2", 0.2)
    assert serving(client) == "v1"
    staged = client.post("/v1/models/left:load").json()
    assert staged == {"name": "left", "active": "v1", "staged": "v2", "previous": None}
    assert serving(client) == "v1"
    assert client.post("/v1/models/left:activate").json()["previous"] == "v1"
    assert serving(client) == "v2"
    assert 'version="v2"' in client.get("/metrics").text
    assert 'model="left",version="v1"' not in client.get("/metrics").text
    assert client.post("/v1/models/left:rollback").json()["active"] == "v1"
    assert serving(client) == "v1"
    assert client.post("/v1/models/left:rollback").json()["active"] == "v2"


def test_what_a_switch_leaves_is_given_back(
    client: TestClient, tiny_bundle: Bundle, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = 0

    def count() -> bool:
        nonlocal given_back
        given_back += 1
        return True

    monkeypatch.setattr(registry, "give_back_memory", count)
    monkeypatch.setattr(model_reader, "give_back_memory", count)
    publish(tiny_bundle, models / "left", "v2")
    client.post("/v1/models/left:load")
    assert given_back == 1
    client.post("/v1/models/left:activate")
    assert given_back == 2


def test_a_version_is_freed_at_the_second_switch(
    tiny_bundle: Bundle, models: Path, tmp_path: Path
) -> None:
    own = settings(
        models,
        default_model="left",
        record="on",
        record_dir=tmp_path / "record",
        keep="all",
    )
    app = create_app(own)
    with TestClient(app) as client:
        slot = app.state.parts.registry.slots["left"]
        first = weakref.ref(slot.active.detector)
        for _ in range(8):  # both lanes, the decoders and the keeper have had it in hand
            assert serving(client) == "v1"
        for version, rate in (("v2", 0.2), ("v3", 0.3)):
            publish(tiny_bundle, models / "left", version, rate)
            assert client.post("/v1/models/left:load").status_code == 200
            assert client.post("/v1/models/left:activate").json()["active"] == version
            assert (version == "v3") or first() is not None  # kept for a rollback
        assert is_freed(first)  # nobody asks any more, and yet no idle thread holds it


def test_a_rollback_outlives_a_restart_until_something_new_comes(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    publish(tiny_bundle, models / "left", "v2")
    client.post("/v1/models/left:load")
    client.post("/v1/models/left:activate")
    client.post("/v1/models/left:rollback")
    with TestClient(create_app(settings(models, default_model="left"))) as again:
        assert serving(again) == "v1"
    publish(tiny_bundle, models / "left", "v3")
    with TestClient(create_app(settings(models, default_model="left"))) as again:
        assert serving(again) == "v3"


@pytest.mark.parametrize("damage", ["truncated", "uncalibrated", "gone", "golden"])
def test_a_broken_version_never_replaces_a_working_one(
    client: TestClient, tiny_bundle: Bundle, models: Path, damage: str
) -> None:
    folder = models / "left"
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "uncalibrated":
        save_bundle(replace(tiny_bundle, calibration=None), folder, "v2")
    elif damage == "gone":
        shutil.rmtree(folder)
    else:
        manifest = folder / "manifest.json"
        text = manifest.read_text().replace('"top_share": 0.', '"top_share": 0.9')
        manifest.write_text(text)
    answer = client.post("/v1/models/left:load")
    assert answer.status_code == 503
    assert answer.json()["code"].startswith("model_")
    refused = client.post("/v1/models/left:activate")
    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_staged")
    assert serving(client) == "v1"


def test_what_cannot_be_done_is_a_conflict_or_unknown(client: TestClient) -> None:
    answer = client.post("/v1/models/left:rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_previous")
    for name in ("middle", "..", ".maskline", "%2e%2e%2fright"):
        assert client.post(f"/v1/models/{name}:load").status_code == 404


def test_a_new_model_is_found_when_it_is_asked_for(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    assert client.post("/score?model=middle", content=GOOD).status_code == 404
    save_bundle(tiny_bundle, models / "middle", "v1")
    assert client.post("/v1/models/middle:load").json()["staged"] == "v1"
    assert client.post("/v1/models/middle:activate").status_code == 200
    assert serving(client, "middle") == "v1"


def test_twenty_swaps_under_load_fail_no_request(
    client: TestClient, tiny_bundle: Bundle, models: Path
) -> None:
    stop = threading.Event()
    seen: list[tuple[int, str, float]] = []

    def ask() -> None:
        while not stop.is_set():
            answer = client.post("/score", content=GOOD)
            body = answer.json()
            seen.append((answer.status_code, body["model"]["version"], body["threshold"]))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    thresholds = {"v1": client.post("/score", content=GOOD).json()["threshold"]}
    for swap in range(20):
        version = f"v{swap + 2}"
        publish(tiny_bundle, models / "left", version, 0.05 + 0.04 * swap)
        assert client.post("/v1/models/left:load").status_code == 200
        assert client.post("/v1/models/left:activate").json()["active"] == version
        thresholds[version] = client.post("/score", content=GOOD).json()["threshold"]
    stop.set()
    for asker in askers:
        asker.join()
    assert {status for status, _, _ in seen} == {200}
    # Every answer is of one whole version: never one's name with another's threshold.
    assert all(threshold == thresholds[version] for _, version, threshold in seen)
    assert len({version for _, version, _ in seen}) > 5


def test_the_watch_takes_over_what_is_new_and_leaves_what_is_broken(
    models: Path, tiny_bundle: Bundle
) -> None:
    app = create_app(settings(models, default_model="left"))
    with TestClient(app) as client:
        watch = app.state.parts.watch
        client.portal.call(watch.scan)
        assert serving(client) == "v1"
        publish(tiny_bundle, models / "left", "v2")
        save_bundle(replace(tiny_bundle, calibration=None), models / "right", "v2")
        save_bundle(tiny_bundle, models / "new", "v7")
        client.portal.call(watch.scan)
        assert serving(client) == "v2"
        assert serving(client, "right") == "v1"
        assert serving(client, "new") == "v7"
        client.post("/v1/models/left:rollback")
        client.portal.call(watch.scan)
        assert serving(client) == "v1"  # what was rolled back from does not come back by itself


def test_memory_is_bounded_by_evicting_the_model_unused_longest(
    models: Path, tiny_bundle: Bundle
) -> None:
    save_bundle(tiny_bundle, models / "third", "v1")
    app = create_app(settings(models, default_model="left"))
    with TestClient(app) as client:
        size = app.state.parts.registry.active[0].megabytes
    app = create_app(settings(models, default_model="left", max_models_mb=2.5 * size))
    with TestClient(app) as client:
        registry = app.state.parts.registry
        loaded = lambda: sorted(model.name for model in registry.active)  # noqa: E731
        assert loaded() == ["left", "right"]
        assert serving(client, "third") == "v1"
        assert loaded() == ["left", "third"]
        assert serving(client, "right") == "v1"
        assert loaded() == ["left", "right"]
        listed = client.get("/v1/models").json()
        assert listed["known"] == ["left", "right", "third"]
        assert [model["name"] for model in listed["models"]] == ["left", "right"]


def test_a_folder_that_cannot_be_written_still_serves(
    models: Path, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    (models / ".maskline").write_text("in the way")
    with TestClient(create_app(settings(models, default_model="left"))) as client:
        publish(tiny_bundle, models / "left", "v2")
        client.post("/v1/models/left:load")
        client.post("/v1/models/left:activate")
        assert client.post("/v1/models/left:rollback").json()["active"] == "v1"
        assert serving(client) == "v1"
    assert "cannot be rolled back to after a restart" in caplog.text


def test_every_switch_is_in_the_audit_trail(
    models: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(models, default_model="left", record="on", record_dir=tmp_path / "results")
    with TestClient(create_app(own)) as client:
        publish(tiny_bundle, models / "left", "v2", 0.2)
        client.post("/v1/models/left:load")
        client.post("/v1/models/left:activate")
        client.post("/v1/models/left:rollback")
        trail = Audit(tmp_path / "results")
        rows = [(row["action"], row["subject"], row["details"]["version"]) for row in trail.rows()]
        assert rows == [
            ("start", "left", "v1"),
            ("start", "right", "v1"),
            ("activate", "left", "v2"),
            ("rollback", "left", "v1"),
        ]
        assert [row["by"] for row in trail.rows()] == ["service", "service", "anybody", "anybody"]
        trail.verify()

        def full(self: Audit, row: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Audit, "_append", full)
        refused = client.post("/v1/models/left:rollback")
        assert (refused.status_code, refused.json()["code"]) == (503, "audit_unwritable")
        assert serving(client) == "v1"


def test_a_camera_with_a_calibration_of_its_own_is_judged_and_recorded_by_it(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    assert tiny_bundle.calibration is not None
    side = replace(tiny_bundle.calibration, false_alarm_rate=0.04, warn_rate=0.9)
    save_bundle(replace(tiny_bundle, cameras={"side": side}), tmp_path / "m", "v1")
    with TestClient(create_app(settings(tmp_path / "m"))) as client:
        part = png(normal_pixels(6003))
        usual = client.post("/score?camera=top", content=part).json()
        other = client.post("/score?camera=side", content=part).json()
        assert usual["verdict"] == "OK"
        assert other["verdict"] == "WARN"
        assert not other["is_anomalous"]
        assert other["threshold"] > usual["threshold"]
        assert other["model"]["calibration"] != usual["model"]["calibration"]
        (listed,) = client.get("/v1/models").json()["models"]
        assert listed["cameras"] == ["side"]
        assert listed["calibration"] == usual["model"]["calibration"]
        assert 'camera="side",model="m",verdict="WARN"} 1.0' in client.get("/metrics").text


def test_a_broken_model_keeps_no_other_from_serving(models: Path, tiny_bundle: Bundle) -> None:
    (models / "right/manifest.json").write_text("{")
    with TestClient(create_app(settings(models, default_model="left"))) as client:
        assert serving(client) == "v1"
        broken = client.post("/score?model=right", content=GOOD)
        assert (broken.status_code, broken.json()["code"]) == (503, "model_corrupt")
        assert 'maskline_model_ready{model="right"} 0.0' in client.get("/metrics").text
        (listed,) = client.get("/v1/models").json()["broken"]
        assert (listed["name"], listed["code"]) == ("right", "model_corrupt")
    with (
        pytest.raises(ModelCorrupt),
        TestClient(create_app(settings(models, default_model="right"))),
    ):
        pass


def test_a_broken_model_is_read_again_after_a_while_and_not_at_each_request(
    models: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "right/manifest.json").write_text("{")
    with TestClient(create_app(settings(models, default_model="left"))) as client:
        reads = []

        def counted(folder: Path) -> Bundle:
            reads.append(folder)
            return load_bundle(folder)

        monkeypatch.setattr("service.inference.model_reader.load_bundle", counted)
        for _ in range(3):
            assert client.post("/score?model=right", content=GOOD).status_code == 503
        assert not reads
        monkeypatch.setattr("service.inference.registry._AGAIN_S", 0.0)
        assert client.post("/score?model=right", content=GOOD).status_code == 503
        assert len(reads) == 1
        shutil.rmtree(models / "right")
        save_bundle(tiny_bundle, models / "right", "v2")
        assert client.post("/score?model=right", content=GOOD).status_code == 200
        assert client.get("/v1/models").json()["broken"] == []


def test_a_folder_that_appears_takes_no_request_from_the_only_model(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "left", "v1")
    app = create_app(settings(tmp_path))
    with TestClient(app) as client:
        save_bundle(tiny_bundle, tmp_path / "second", "v1")
        client.portal.call(app.state.parts.watch.scan)
        assert client.post("/score", content=GOOD).json()["model"]["name"] == "left"


def test_the_watch_outlives_every_error_and_tries_again(
    models: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings(models, default_model="left"))
    with TestClient(app) as client:
        registry, watch = app.state.parts.registry, app.state.parts.watch
        note, errors = registry._note, [AuditUnwritable("locked"), ZeroDivisionError()]

        def noting(action: str, name: str, bundle: Bundle, **details: object) -> None:
            if name == "left" and errors:
                raise errors.pop()
            note(action, name, bundle, **details)

        monkeypatch.setattr(registry, "_note", noting)
        for folder in ("left", "right"):
            publish(tiny_bundle, models / folder, "v2")
        client.portal.call(watch.scan)
        assert (serving(client), serving(client, "right")) == ("v1", "v2")
        client.portal.call(watch.scan)
        assert serving(client) == "v1"
        client.portal.call(watch.scan)
        assert serving(client) == "v2"


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1]",
        "7",
        '{"left": 7}',
        '{"left": {"version": "../../x", "instead_of": "v1"}}',
        "[" * 200_000,
    ],
)
def test_a_choice_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    archive = Archive(tmp_path)
    archive.choose("left", ChosenVersion("v1", "v2"))
    assert archive.chosen("left") == ChosenVersion("v1", "v2")
    (tmp_path / ".maskline/chosen.json").write_text(text)
    assert archive.chosen("left") is None


def test_only_a_models_own_files_are_archived(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "left")
    (tmp_path / "left/photos").mkdir()
    (tmp_path / "left/photos/1.jpg").write_text("mine")
    archive = Archive(tmp_path)
    archive.keep(tmp_path / "left", "left", "v1")
    folder = archive.folder("left", "v1")
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in tiny_folder.iterdir()
    )
