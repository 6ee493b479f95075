"""Trainings as processes of their own, with short commands in the place of the real one."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from record.audit import Audit
from record.result import JsonObject
from service.errors import (
    JobEnded,
    JobExists,
    JobNotResumable,
    JobsElsewhere,
    JobsFull,
    JobUnknown,
    RecipeUnknown,
    VersionWaits,
)
from service.jobs import process, trainings
from service.jobs.folders import JobFolders, Training, TrainingOrder
from service.jobs.trainings import Trainings

MODEL = "import pathlib; p = pathlib.Path('model'); p.mkdir(); (p / 'manifest.json').write_text('')"
SLEEP = "import time; print('began', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "_EVERY_S", 0.02)


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in tmp_path.glob("jobs/*"):
        process.send(folder, signal.SIGKILL)


async def adopted(training: Training, model: Path) -> JsonObject:
    assert (model / "manifest.json").is_file()
    return {"version": "v1"}


def made(tmp_path: Path, *scripts: str, adopt: trainings.Adopt = adopted) -> Trainings:
    """Trainings that run these scripts, one after the other; the last again and again."""
    remaining = list(scripts)

    def command(order: TrainingOrder, folder: Path, resumes: bool) -> list[str]:
        script = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [sys.executable, "-c", script, *(["--resume"] if resumes else [])]

    return Trainings(
        JobFolders(tmp_path / "jobs"),
        adopt,
        Audit(tmp_path),
        publish=lambda name, data: published.append((name, data)),
        command=command,
    )


published: list[tuple[str, JsonObject]] = []


def order(model: str = "part", **changes: object) -> TrainingOrder:
    return TrainingOrder(model, "/data", **changes)  # type: ignore[arg-type]


def running(service: Trainings, scene: Callable[[], Awaitable[None]]) -> None:
    """Play a scene while the service watches; it lets go of the folder in the end."""

    async def play() -> None:
        await service.open()
        task = asyncio.create_task(service.run())
        try:
            await scene()
        finally:
            task.cancel()
            await asyncio.wait([task])
            service.close()

    asyncio.run(play())


async def reaches(service: Trainings, job_id: str, state: str, limit_s: float = 20) -> JsonObject:
    end = time.monotonic() + limit_s
    while service.find(job_id).job.state != state:
        assert time.monotonic() < end, service.find(job_id).job
        await asyncio.sleep(0.02)
    return service.find(job_id).job.as_json()


async def begun(tmp_path: Path, job_id: str) -> int:
    """Wait until a job's command says so; returns its group."""
    folder = tmp_path / "jobs" / job_id
    end = time.monotonic() + 20
    while not (folder / "log.txt").exists() or "began" not in (folder / "log.txt").read_text():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return int((folder / "process").read_text())


def test_a_training_that_ends_well_is_adopted_and_its_work_removed(tmp_path: Path) -> None:
    published.clear()
    progress = json.dumps({"stage": "training", "done": 3, "total": 9})
    script = f"open('progress.json', 'w').write('''{progress}'''); {MODEL}"
    service = made(tmp_path, script)

    async def scene() -> None:
        job = await service.start(order())
        assert job.state == "waiting"
        done = await reaches(service, job.id, "done")
        assert done["result"] == {"version": "v1"}
        assert done["progress"]["stage"] == "training"
        assert done["error"] is None
        assert done["started_at"] is not None
        assert done["ended_at"] is not None
        assert not (tmp_path / "jobs" / job.id / "model").exists()

    running(service, scene)
    states = [data["state"] for name, data in published if name == "job"]
    assert list(dict.fromkeys(states)) == ["waiting", "running", "done"]
    rows = list(Audit(tmp_path).rows())
    assert [row["action"] for row in rows] == ["train_queued", "train_end"]
    assert rows[1]["details"]["state"] == "done"
    Audit(tmp_path).verify()


def test_what_the_command_says_is_why_it_failed(tmp_path: Path) -> None:
    script = "import sys; print('error [data_invalid]: too few images', file=sys.stderr); exit(2)"
    service = made(tmp_path, script, "print('odd'); exit(70)")

    async def scene() -> None:
        failed = await reaches(service, (await service.start(order())).id, "failed")
        assert failed["error"] == {"code": "data_invalid", "detail": "too few images"}
        odd = await reaches(service, (await service.start(order())).id, "failed")
        assert odd["error"]["code"] == "training_failed"
        assert "exit code 70: odd" in odd["error"]["detail"]

    running(service, scene)


def test_a_killed_training_is_failed_with_a_sentence(tmp_path: Path) -> None:
    service = made(tmp_path, SLEEP)

    async def scene() -> None:
        job = await service.start(order())
        os.killpg(await begun(tmp_path, job.id), signal.SIGKILL)
        failed = await reaches(service, job.id, "failed")
        assert failed["error"]["code"] == "training_killed"
        assert "out of memory" in failed["error"]["detail"]

    running(service, scene)


def test_stop_ends_even_a_process_that_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "_GRACE_S", 0.3)
    service = made(tmp_path, SLEEP, STUBBORN)

    async def scene() -> None:
        for _ in range(2):
            job = await service.start(order())
            await begun(tmp_path, job.id)
            assert (await service.stop(job.id)).state == "running"
            stopped = await reaches(service, job.id, "stopped")
            assert stopped["error"] is None
            with pytest.raises(JobEnded):
                await service.stop(job.id)
            await asyncio.sleep(0.1)
            assert not process.is_alive(tmp_path / "jobs" / job.id)

    running(service, scene)


def test_one_runs_at_a_time_and_as_many_wait_as_may(tmp_path: Path) -> None:
    service = made(tmp_path, SLEEP)

    async def scene() -> None:
        jobs = [await service.start(order(f"part{index}")) for index in range(9)]
        await begun(tmp_path, jobs[0].id)
        states = [service.find(job.id).job.state for job in jobs]
        assert states == ["running"] + ["waiting"] * 8
        with pytest.raises(JobsFull):
            await service.start(order("another"))
        with pytest.raises(JobExists):
            await service.start(order("part3"))
        for job in reversed(jobs):
            await service.stop(job.id)
        await reaches(service, jobs[0].id, "stopped")

    running(service, scene)


def test_a_service_that_starts_anew_finds_its_training_running(tmp_path: Path) -> None:
    go_on = "import os, time\nprint('began', flush=True)\n"
    go_on += f"while not os.path.exists('go'): time.sleep(0.02)\n{MODEL}"
    before, after, job_id = made(tmp_path, go_on), made(tmp_path, SLEEP), ""

    async def first() -> None:
        nonlocal job_id
        job_id = (await before.start(order())).id
        await begun(tmp_path, job_id)

    async def second() -> None:
        await asyncio.sleep(0.2)
        assert after.find(job_id).job.state == "running"
        (tmp_path / "jobs" / job_id / "go").touch()
        assert (await reaches(after, job_id, "done"))["result"] == {"version": "v1"}

    running(before, first)
    running(after, second)


@pytest.mark.parametrize("end", ["killed", "whole"])
def test_what_ended_while_no_service_ran_is_found_so(tmp_path: Path, end: str) -> None:
    slow = "print('began', flush=True); import time; time.sleep(0.5)"
    script = SLEEP if end == "killed" else f"{slow}; {MODEL}"
    before, after, job_id = made(tmp_path, script), made(tmp_path, script), ""

    async def first() -> None:
        nonlocal job_id
        job_id = (await before.start(order())).id
        await begun(tmp_path, job_id)

    async def second() -> None:
        await reaches(after, job_id, "failed" if end == "killed" else "done")

    running(before, first)
    folder = tmp_path / "jobs" / job_id
    if end == "killed":
        os.killpg(int((folder / "process").read_text()), signal.SIGKILL)
    while process.is_alive(folder):
        time.sleep(0.02)
    running(after, second)


def test_a_number_that_is_somebody_elses_by_now_gets_no_signal(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "x"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "process").write_text(str(os.getpgrp()))
    process.send(folder, signal.SIGKILL)  # or this test would not end


def test_what_cannot_be_put_in_its_place_is_kept_and_put_there_on_resume(tmp_path: Path) -> None:
    refusals = [VersionWaits("another version waits")]

    async def adopt(training: Training, model: Path) -> JsonObject:
        if refusals:
            raise refusals.pop()
        return await adopted(training, model)

    service = made(tmp_path, MODEL, "exit(1)", adopt=adopt)

    async def scene() -> None:
        job = await service.start(order())
        failed = await reaches(service, job.id, "failed")
        assert failed["error"]["code"] == "version_waits"
        await service.resume(job.id)
        await reaches(service, job.id, "done")
        with pytest.raises(JobNotResumable):
            await service.resume(job.id)

    running(service, scene)


def test_a_resumed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    begin = "import os; os.mkdir('model.run'); exit(3)"
    service = made(tmp_path, begin, f"import sys; assert sys.argv[1:] == ['--resume']; {MODEL}")

    async def scene() -> None:
        job = await service.start(order())
        await reaches(service, job.id, "failed")
        assert (await service.resume(job.id)).state == "waiting"
        await reaches(service, job.id, "done")

    running(service, scene)


def test_the_processes_know_nothing_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLINE_DATABASE_URL", "postgresql://maskline:secret@db/maskline")
    script = "import os; print(sorted(n for n in os.environ if n[:8] == 'MASKLINE'), os.nice(0))"
    service = made(tmp_path, script + "; exit(1)")

    async def scene() -> None:
        job = await service.start(order())
        await reaches(service, job.id, "failed")
        name, nice = (await service.log(job.id)).split()
        assert name == "[]"
        assert int(nice) >= 10

    running(service, scene)


def test_two_services_do_not_share_a_folder(tmp_path: Path) -> None:
    first, second = made(tmp_path, SLEEP), made(tmp_path, SLEEP)

    async def scene() -> None:
        job = await first.start(order())
        with pytest.raises(JobsElsewhere):
            await second.start(order())
        await second.tick()
        await first.stop(job.id)

    running(first, scene)


def test_history_is_bounded_and_what_is_damaged_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "_MOST_JOBS", 3)
    monkeypatch.setattr(trainings, "_MOST_RESUMABLE", 1)
    (tmp_path / "jobs/damaged").mkdir(parents=True)
    (tmp_path / "jobs/damaged/job.json").write_text("{")
    service = made(tmp_path, "import os; os.mkdir('model.run'); exit(1)")

    async def scene() -> None:
        ids = []
        for _ in range(5):
            ids.append((await service.start(order())).id)
            await reaches(service, ids[-1], "failed")
        folders = tmp_path / "jobs"
        assert [(folders / job_id).exists() for job_id in ids] == [False, False, True, True, True]
        assert not (folders / ids[2] / "model.run").exists()
        assert (folders / "damaged").exists()
        with pytest.raises(JobUnknown):
            service.find("damaged")
        with pytest.raises(JobUnknown):
            service.find("../" + ids[3])

    running(service, scene)


def test_a_log_is_read_from_its_end(tmp_path: Path) -> None:
    service = made(tmp_path, "print('x' * 100_000); print('ende ' + chr(252)); exit(1)")

    async def scene() -> None:
        job = await service.start(order())
        await reaches(service, job.id, "failed")
        log = await service.log(job.id)
        assert len(log) <= 65536
        assert log.endswith("ende ü\n")

    running(service, scene)


def test_recipes_are_those_that_a_training_takes(tmp_path: Path) -> None:
    assert {"default", "fast", "pixels"} <= set(trainings.recipe_names())
    assert "sweep" not in trainings.recipe_names()
    service = made(tmp_path, SLEEP)

    async def scene() -> None:
        with pytest.raises(RecipeUnknown):
            await service.start(order(recipe="../../etc/passwd"))

    running(service, scene)
