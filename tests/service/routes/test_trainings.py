"""From good parts to a model that serves, over HTTP."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from anomaly.bundle import Bundle, save_bundle
from record.audit import Audit
from service.app import create_app
from service.jobs import process, trainings
from service.jobs.folders import TrainingOrder
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import settings

TINY = {
    "model.preprocess.canvas": 64,
    "model.target.patch": 8,
    "model.mae.width": 32,
    "model.mae.depth": 2,
    "model.mae.heads": 2,
    "model.mae.decoder_width": 32,
    "model.mae.decoder_depth": 1,
    "model.mae.decoder_heads": 2,
    "crossfit.folds": 0,
    "optimiser.epochs": 0,
    "optimiser.steps": 60,
    "optimiser.batch_size": 16,
    "optimiser.warmup_steps": 5,
    "optimiser.learning_rate": 0.003,
    "optimiser.ema_decay": 0.9,
    "run.tensorboard": False,
    "run.precision": "fp32",
    "run.device": "cpu",
    "run.export": "never",
}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "_EVERY_S", 0.05)


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in tmp_path.glob("results/jobs/*"):
        process.send(folder, trainings.signal.SIGKILL)


def service(tmp_path: Path, **changes: Any) -> TestClient:
    usual = {"record": "on", "keep": "all", "record_dir": tmp_path / "results"}
    return TestClient(create_app(settings(tmp_path / "models", **(usual | changes))))


def images(count: int, first: int = 0) -> list[tuple[str, tuple[str, bytes]]]:
    return [
        ("file", (f"{index}.png", png(normal_pixels(index))))
        for index in range(first, first + count)
    ]


def ended(client: TestClient, job_id: str, limit_s: float = 200) -> dict[str, Any]:
    end = time.monotonic() + limit_s
    while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end, (job, client.get(f"/v1/jobs/{job_id}/log").text)
        time.sleep(0.05)
    return job


def copying(client: TestClient, trained: Path) -> None:
    """Let trainings copy a model that is there already."""

    def command(order: TrainingOrder, folder: Path, resumes: bool) -> list[str]:
        script = (
            "import os, shutil, sys; shutil.copytree(sys.argv[1], 'm'); os.rename('m', 'model')"
        )
        return [sys.executable, "-c", script, str(trained)]

    client.app.state.parts.jobs.trainings._command = command


@pytest.mark.slow
def test_from_uploaded_parts_to_a_model_that_serves(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        assert client.get("/health/ready").json()["code"] == "no_model"
        assert client.post("/v1/datasets/bracket", files=images(30)).json()["added"] == 30
        order = {"model": "bracket", "dataset": "bracket", "recipe": "pixels", "settings": TINY}
        answer = client.post("/v1/trainings", json=order | {"false_alarm_rate": 0.2})
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert (job["kind"], job["state"], job["by"]) == ("training", "waiting", "anybody")
        again = client.post("/v1/trainings", json=order)
        assert (again.status_code, again.json()["code"]) == (409, "job_exists")
        held = client.delete("/v1/datasets/bracket")
        assert (held.status_code, held.json()["code"]) == (409, "dataset_in_use")
        done = ended(client, job["id"])
        log = client.get(f"/v1/jobs/{job['id']}/log").text
        assert done["state"] == "done", (done, log)
        assert done["progress"]["stage"] == "calibration"
        assert done["result"]["is_serving"]
        assert done["result"]["training_images"] == 24
        assert "saved" in log
        assert client.get("/health/ready").status_code == 200
        good = client.post("/score", content=png(normal_pixels(500))).json()
        bad = client.post("/score", content=png(planted(normal_pixels(500), 60, 40, 16))).json()
        assert good["model"]["version"] == done["result"]["version"]
        assert bad["score"] > good["score"]

        few = client.post("/v1/datasets/few", files=images(2)).json()
        assert few["dataset"]["images"] == 2
        failing = client.post("/v1/trainings", json=order | {"model": "few", "dataset": "few"})
        failed = ended(client, failing.json()["id"])
        assert failed["state"] == "failed"
        assert failed["error"]["code"] == "data_invalid", failed["error"]
        assert "too few" in failed["error"]["detail"]
    actions = [row["action"] for row in Audit(tmp_path / "results").rows()]
    assert actions == [
        "train_queued",
        "train",
        "activate",
        "train_end",
        "train_queued",
        "train_end",
    ]


def test_a_version_of_a_model_that_serves_is_staged_also_after_a_restart(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "models/part", "v1")
    save_bundle(tiny_bundle, tmp_path / "trained", "v2")
    with service(tmp_path) as client:
        copying(client, tmp_path / "trained")
        client.post("/v1/datasets/part", files=images(2))
        order = {"model": "part", "dataset": "part"}
        done = ended(client, client.post("/v1/trainings", json=order).json()["id"])
        assert done["state"] == "done", done
        assert (done["result"]["version"], done["result"]["is_serving"]) == ("v2", False)
        assert client.post("/score", content=png(normal_pixels(1))).json()["model"]["version"] == (
            "v1"
        )
    with service(tmp_path) as client:
        [job] = client.get("/v1/jobs").json()["jobs"]
        assert (job["id"], job["state"]) == (done["id"], "done")
        [model] = client.get("/v1/models").json()["models"]
        assert model["version"] == "v1"
        client.post("/v1/models/part:load")
        activated = client.post("/v1/models/part:activate", json={"version": "v2"})
        assert activated.json()["active"] == "v2"


def test_a_version_that_waits_is_not_replaced_and_the_trained_one_is_kept(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "models/part", "v1")
    save_bundle(tiny_bundle, tmp_path / "trained", "v3")
    with service(tmp_path) as client:
        copying(client, tmp_path / "trained")
        save_bundle(tiny_bundle, tmp_path / "models/part", "v2")  # by hand
        client.post("/v1/datasets/part", files=images(2))
        job = client.post("/v1/trainings", json={"model": "part", "dataset": "part"}).json()
        failed = ended(client, job["id"])
        assert failed["error"]["code"] == "version_waits"
        client.post("/v1/models/part:load")
        client.post("/v1/models/part:activate", json={"version": "v2"})
        assert client.post(f"/v1/jobs/{job['id']}:resume").status_code == 200
        assert ended(client, job["id"])["result"]["version"] == "v3"


def test_a_second_model_serves_by_its_name_and_takes_no_request_away(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "trained", "v1")
    with service(tmp_path) as client:
        copying(client, tmp_path / "trained")
        client.post("/v1/datasets/part", files=images(2))
        for name in ("first", "second"):
            job = client.post("/v1/trainings", json={"model": name, "dataset": "part"}).json()
            assert ended(client, job["id"])["result"]["is_serving"]
        for query, name in (("", "first"), ("?model=second", "second")):
            answer = client.post(f"/score{query}", content=png(normal_pixels(1))).json()
            assert answer["model"]["name"] == name


def test_a_folder_of_one_model_takes_no_others(tiny_folder: Path, tmp_path: Path) -> None:
    with service(tmp_path) as client:
        client.post("/v1/datasets/part", files=images(2))
    app = create_app(settings(tiny_folder, record_dir=tmp_path / "results"))
    with TestClient(app) as client:
        answer = client.post("/v1/trainings", json={"model": "part", "dataset": "part"})
        assert (answer.status_code, answer.json()["code"]) == (503, "models_unwritable")


def test_what_is_no_image_is_refused_by_its_index_and_the_rest_is_taken(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        hostile = "../../../etc/passwd<script>\u202e" + "x" * 500
        files = [
            ("file", (hostile, png(normal_pixels(1)))),
            ("file", ("a.jpg", b"no image")),
            ("file", ("b.png", png(normal_pixels(2))[:60])),
            ("file", ("c.png", png(normal_pixels(1)))),
            ("file", ("<b>", b"")),
        ]
        answer = client.post("/v1/datasets/part", files=files)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["added"], body["copies"], body["dataset"]["images"]) == (1, 1, 1)
        codes = [(item["index"], item["error"]["code"]) for item in body["refused"]]
        assert codes == [(1, "image_unsupported"), (2, "image_corrupt"), (4, "image_empty")]
        stored = sorted(path.name for path in (tmp_path / "results").rglob("*.png"))
        assert len(stored) == 1
        assert len(stored[0]) == 68
        nothing = client.post("/v1/datasets/none", files=files[1:3]).json()
        assert (nothing["dataset"], nothing["added"]) == (None, 0)
        assert [item["name"] for item in client.get("/v1/datasets").json()["datasets"]] == ["part"]
        assert client.get("/v1/datasets/none").json()["code"] == "dataset_not_found"
        assert client.delete("/v1/datasets/part").status_code == 204
        assert client.get("/v1/datasets").json()["datasets"] == []
        assert client.app.state.parts.inspector.budget.taken_bytes == 0


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "<b>", "ü", "x" * 65, "a:b", "-rf"])
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    with service(tmp_path) as client:
        quoted = "%2e%2e" if name == ".." else name
        assert client.post(f"/v1/datasets/{quoted}", files=images(1)).status_code in (404, 422)
        for order in ({"model": name, "dataset": "x"}, {"model": "x", "dataset": name}):
            assert client.post("/v1/trainings", json=order).status_code == 422
        assert not (tmp_path / "results/datasets").exists()
        assert not (tmp_path / "results/jobs").exists()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"dataset": "missing"}, 404, "dataset_not_found"),
        ({"dataset": None, "folder": "/etc"}, 403, "folder_refused"),
        ({"folder": "/etc"}, 422, "parameter_invalid"),
        ({"recipe": "none"}, 422, "recipe_unknown"),
        ({"recipe": "../x"}, 422, "parameter_invalid"),
        ({"settings": {"run.mlflow": "http://elsewhere/"}}, 422, "parameter_invalid"),
        ({"settings": {"--out": 1}}, 422, "parameter_invalid"),
        ({"settings": {"run.seed": [1]}}, 422, "parameter_invalid"),
        ({"false_alarm_rate": 0}, 422, "parameter_invalid"),
    ],
)
def test_a_training_that_cannot_be_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str
) -> None:
    with service(tmp_path) as client:
        client.post("/v1/datasets/part", files=images(1))
        order = {"model": "part", "dataset": "part"} | changes
        answer = client.post("/v1/trainings", json=order)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert client.get("/v1/jobs").json()["jobs"] == []


def test_an_allowed_folder_is_read_where_it_lies(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "lines/left").mkdir(parents=True)
    with service(tmp_path, train_folders=str(tmp_path / "lines")) as client:
        assert client.get("/v1/datasets").json()["folders"] == [str(tmp_path / "lines")]
        seen = []

        def command(order: TrainingOrder, folder: Path, resumes: bool) -> list[str]:
            seen.append(order.data)
            return [sys.executable, "-c", "exit(1)"]

        client.app.state.parts.jobs.trainings._command = command
        order = {"model": "part", "folder": str(tmp_path / "lines/left")}
        ended(client, client.post("/v1/trainings", json=order).json()["id"])
        assert seen == [str(tmp_path / "lines/left")]


def test_kept_parts_that_passed_become_a_set(tiny_bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(tiny_bundle, tmp_path / "models/part", "v1")
    with service(tmp_path) as client:
        passed = 0
        for index in range(6):
            body = png(normal_pixels(600 + index))
            answer = client.post(f"/score?camera={'left' if index < 4 else 'right'}", content=body)
            passed += answer.json()["verdict"] == "OK" and index < 4
        client.post("/score?camera=left", content=png(planted(normal_pixels(1), 60, 40, 16)))
        assert passed
        end = time.monotonic() + 20
        while len(client.get("/v1/results").json()["results"]) < 7:
            assert time.monotonic() < end
            time.sleep(0.05)
        client.app.state.parts.inspector.recording._keeper.flush()
        made = client.post("/v1/datasets/again:from-results", json={"camera": "left"}).json()
        assert (made["added"], made["dataset"]["images"]) == (passed, passed)
        twice = client.post("/v1/datasets/again:from-results", json={"camera": "left"}).json()
        assert (twice["added"], twice["copies"]) == (0, passed)
    with service(tmp_path, record="off") as client:
        answer = client.post("/v1/datasets/again:from-results", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, "nothing_recorded")


def test_unknown_jobs_are_unknown(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        for path in ("/v1/jobs/none", "/v1/jobs/..%2f..%2fetc", "/v1/jobs/none/log"):
            assert client.get(path).status_code == 404
        for action in ("stop", "resume"):
            answer = client.post(f"/v1/jobs/none:{action}")
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.slow
def test_a_real_training_outlives_a_restart_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    lasting = TINY | {"optimiser.steps": 3000, "run.checkpoint_every": 20, "run.log_every": 20}
    order = {"model": "bracket", "dataset": "part", "recipe": "pixels", "settings": lasting}
    with service(tmp_path) as client:
        client.post("/v1/datasets/part", files=images(30))
        job_id = client.post("/v1/trainings", json=order).json()["id"]
        checkpoint = tmp_path / "results/jobs" / job_id / "model.run/checkpoint.safetensors"
        end = time.monotonic() + 120
        while not checkpoint.exists():
            assert time.monotonic() < end, client.get(f"/v1/jobs/{job_id}").json()
            time.sleep(0.05)
    with service(tmp_path) as client:
        job = client.get(f"/v1/jobs/{job_id}").json()
        assert job["state"] == "running", job
        while (job := client.get(f"/v1/jobs/{job_id}").json())["progress"]["loss"] is None:
            assert job["state"] == "running", job
            time.sleep(0.05)
        assert job["progress"]["stage"] == "training"
        assert job["progress"]["left_s"] > 0
        assert job["progress"]["images_per_s"] > 0
        process.send(tmp_path / "results/jobs" / job_id, trainings.signal.SIGKILL)
        failed = ended(client, job_id)
        assert (failed["state"], failed["error"]["code"]) == ("failed", "training_killed")
        step = failed["progress"]["done"]
        client.post(f"/v1/jobs/{job_id}:resume")
        while (job := client.get(f"/v1/jobs/{job_id}").json())["progress"]["stage"] != "training":
            assert job["state"] in ("waiting", "running"), job
            time.sleep(0.02)
        assert job["progress"]["done"] >= step - 20 > 0
        client.post(f"/v1/jobs/{job_id}:stop")
        assert ended(client, job_id)["state"] == "stopped"
