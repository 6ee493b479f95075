"""Calibrations as jobs."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from record.result import JsonObject
from service.app import create_app
from service.errors import JobEnded, JobsFull, JobUnknown, NormalsMissing
from service.http.problems import explained
from service.jobs.calibrations import Calibrations, Judging
from tests.conftest import normal_pixels, png
from tests.service.conftest import settings

FILES = [("file", (f"{index}.png", png(normal_pixels(7000 + index)))) for index in range(24)]
ASYNC = {"Prefer": "respond-async, wait=10"}


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    models = tmp_path / "models/tiny"
    models.mkdir(parents=True)
    for file in tiny_folder.iterdir():
        (models / file.name).write_bytes(file.read_bytes())
    with TestClient(create_app(settings(models, record_dir=tmp_path / "results"))) as open_client:
        yield open_client


def ended(client: TestClient, job_id: str) -> dict[str, Any]:
    end = time.monotonic() + 30
    while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    return job


def test_a_calibration_goes_on_as_a_job_and_its_result_is_the_usual_answer(
    client: TestClient,
) -> None:
    answer = client.post("/v1/models/tiny:calibrate", files=FILES, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["model"], job["state"]) == ("calibration", "tiny", "running")
    done = ended(client, job["id"])
    assert done["state"] == "done", done
    assert (done["progress"]["done"], done["progress"]["total"]) == (24, 24)
    plain = client.post("/v1/models/tiny:calibrate", files=FILES)
    assert plain.status_code == 200
    assert done["result"].keys() == plain.json().keys()
    assert done["result"]["normals"] == 24
    assert done["result"]["versions"]["staged"] == done["result"]["version"]
    assert client.app.state.parts.inspector.budget.taken_bytes == 0
    assert client.get(f"/v1/jobs/{job['id']}/log").text == ""
    resumed = client.post(f"/v1/jobs/{job['id']}:resume")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "job_not_resumable")


def test_what_fails_says_so_in_the_job_and_stages_nothing(client: TestClient) -> None:
    few = client.post("/v1/models/tiny:calibrate", files=FILES[:3], headers=ASYNC).json()
    failed = ended(client, few["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "normals_missing")
    files = [*FILES, ("file", ("x.png", b"no image"))]
    bad = client.post("/v1/models/tiny:calibrate", files=files, headers=ASYNC).json()
    assert ended(client, bad["id"])["error"]["code"] == "image_unsupported"
    assert "x.png" in ended(client, bad["id"])["error"]["detail"]
    assert client.app.state.parts.registry.find("tiny").staged is None
    assert client.app.state.parts.inspector.budget.taken_bytes == 0


def test_what_is_wrong_with_the_request_is_told_at_once(client: TestClient) -> None:
    body = client.post("/v1/models/tiny:calibrate", content=b"x", headers=ASYNC)
    assert body.status_code == 415
    assert client.post("/v1/models/none:calibrate", files=FILES, headers=ASYNC).status_code == 404
    assert client.get("/v1/jobs").json()["jobs"] == []


def unit(told: list[JsonObject] | None = None) -> Calibrations:
    told = [] if told is None else told
    return Calibrations(explained, publish=lambda name, data: told.append(data))


def test_it_is_stopped_while_it_looks_at_images_and_not_later() -> None:
    async def play() -> None:
        calibrations, closed = unit(), []
        going = asyncio.Event()

        async def work(judging: Judging) -> JsonObject:
            judging.count(1, 2)
            await going.wait()
            return {}

        async def late(judging: Judging) -> JsonObject:
            judging.settle()
            await going.wait()
            return {"done": True}

        early = calibrations.start("m", work, lambda: closed.append("early"))
        unbegun = calibrations.start("m", work, lambda: closed.append("unbegun"))
        assert (await calibrations.stop(unbegun.id)).state == "stopped"
        settled = calibrations.start("m", late, lambda: closed.append("late"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await calibrations.stop(early.id)).state == "stopped"
        with pytest.raises(JobEnded):
            await calibrations.stop(settled.id)
        going.set()
        await asyncio.sleep(0.01)
        assert calibrations.find(settled.id).result == {"done": True}
        assert sorted(closed) == ["early", "late", "unbegun"]
        with pytest.raises(JobUnknown):
            calibrations.find("none")

    asyncio.run(play())


def test_only_a_few_run_at_once_and_a_refused_one_is_closed() -> None:
    async def play() -> None:
        calibrations, closed = unit(), []

        async def work(judging: Judging) -> JsonObject:
            await asyncio.sleep(60)
            return {}

        for _ in range(4):
            calibrations.start("m", work)
        with pytest.raises(JobsFull):
            calibrations.start("m", work, lambda: closed.append("refused"))
        assert closed == ["refused"]
        await calibrations.close()
        assert {job.state for job in calibrations.jobs()} == {"stopped"}

    asyncio.run(play())


def test_progress_is_told_at_most_twice_a_second_and_history_is_bounded() -> None:
    async def play() -> None:
        told: list[JsonObject] = []
        calibrations = unit(told)

        async def work(judging: Judging) -> JsonObject:
            for done in range(1, 501):
                judging.count(done, 500)
            raise NormalsMissing("too few")

        calibrations.start("m", work)
        await asyncio.sleep(0.01)
        assert [data["state"] for data in told] == ["running", "failed"]
        assert told[-1]["progress"]["done"] == 500
        for _ in range(60):
            calibrations.start("m", work)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(list(calibrations.jobs())) == 50

    asyncio.run(play())
