"""One idempotency key, one request, one inspection: whoever asks, and in whatever order."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.app import create_app
from service.errors import IdempotencyMismatch
from service.http.api_keys import Role, add_key
from service.results.idempotency import Answered, RepeatKey, Repeats
from service.schemas.scoring import ScoreOut, ScoreQuery
from tests.conftest import normal_pixels, planted, png
from tests.service.conftest import score_out, settings
from tests.service.routes.test_results import results, served
from tests.service.test_faults import Held

GOOD = png(normal_pixels(6000))
BAD = png(planted(normal_pixels(6001), 80, 40, 12))


def answer(result_id: str) -> ScoreOut:
    return score_out(result_id=result_id)


class Line:
    """Inspections that take a while and may fail, on the event loop's own clock."""

    def __init__(self, seed: int, failing: float) -> None:
        self.random = random.Random(seed)
        self.failing = failing
        self.inspected = self.at_once = self.most_at_once = 0
        self.ok: list[str] = []

    async def inspect(self) -> ScoreOut:
        self.inspected += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(self.random.randrange(6)):
                await asyncio.sleep(0)
            if self.random.random() < self.failing:
                raise OSError("the camera's cable")
            self.ok.append(f"r{self.inspected}")
            return answer(self.ok[-1])
        finally:
            self.at_once -= 1

    async def stored(self, scoped: str) -> Answered | None:
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        return None


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(2, 24),
    failing=st.sampled_from((0.0, 0.3, 1.0)),
    leaving=st.sampled_from((0.0, 0.4, 1.0)),
)
def test_however_requests_interleave_one_inspects_at_a_time_and_all_end(
    seed: int, count: int, failing: float, leaving: float
) -> None:
    chance = random.Random(seed)
    line, repeats, key = Line(seed, failing), Repeats(), RepeatKey("[K]", "f")

    async def ask() -> str:
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        return (await repeats.once(key, line.inspect, line.stored)).result_id

    async def leave(task: asyncio.Task[str]) -> None:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        task.cancel()

    async def everybody() -> list[str | BaseException]:
        tasks = [asyncio.create_task(ask()) for _ in range(count)]
        leavers = [asyncio.create_task(leave(one)) for one in tasks if chance.random() < leaving]
        async with asyncio.timeout(5):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*leavers)
        return ended

    ended = asyncio.run(everybody())
    assert line.most_at_once <= 1
    assert len(line.ok) <= 1
    assert repeats._underway == {}
    assert {one for one in ended if isinstance(one, str)} <= set(line.ok)
    for one in ended:
        assert isinstance(one, str | OSError | asyncio.CancelledError)
    if not failing and not leaving:
        assert line.inspected == 1
        assert ended == line.ok * count
    if failing and not line.ok and not leaving:
        assert line.inspected == count  # each took its turn


def test_another_request_with_the_key_is_refused_at_once_and_does_not_wait() -> None:
    repeats = Repeats()

    async def main() -> None:
        gate = asyncio.Event()

        async def slow() -> ScoreOut:
            await gate.wait()
            return answer("r1")

        first = asyncio.create_task(repeats.once(RepeatKey("K", "one"), slow))
        await asyncio.sleep(0)
        with pytest.raises(IdempotencyMismatch):
            await repeats.once(RepeatKey("K", "two"), slow)
        gate.set()
        await first
        with pytest.raises(IdempotencyMismatch):
            await repeats.once(RepeatKey("K", "two"), slow)

    asyncio.run(main())


def test_answers_are_remembered_up_to_a_limit() -> None:
    repeats, inspected = Repeats(remembered=2), Counter[str]()

    def inspecting(name: str) -> Callable[[], Awaitable[ScoreOut]]:
        async def inspect() -> ScoreOut:
            inspected[name] += 1
            return answer(name)

        return inspect

    async def main() -> None:
        for name in ("a", "b", "c", "c", "b", "a"):
            await repeats.once(RepeatKey(name, "f"), inspecting(name))

    asyncio.run(main())
    assert inspected == {"a": 2, "b": 1, "c": 1}


SAME = {"model": "tiny", "camera": "c1", "part_id": "A", "idempotency_key": "K"}
# Every parameter that there is, and another value of it: a new one must be put here.
CHANGES: dict[str, Any] = {
    "model": "other",
    "part_id": "B",
    "camera": "c2",
    "lot": "L2",
    "program": "R2",
    "threshold": 2.5,
    "false_alarm_rate": 0.2,
    "triggered_at": "2026-03-01T12:00:00Z",
    "idempotency_key": "K2",
    "deadline_ms": 1234,
    "priority": "low",
    "heatmap": "none",
}


def key_of(*, image: str = "0" * 64, caller: str | None = "key", **query: Any) -> RepeatKey:
    asked = ScoreQuery.model_validate(SAME | query)
    return RepeatKey.of(asked, caller=caller, image_sha256=image)


@pytest.mark.parametrize("name", [*ScoreQuery.model_fields])
def test_whatever_changes_the_answer_is_another_request(name: str) -> None:
    usual, changed = key_of(), key_of(**{name: CHANGES[name]})
    if name in ("deadline_ms", "priority", "heatmap"):
        assert changed == usual
    elif name == "idempotency_key":
        assert changed.scoped != usual.scoped
    else:
        assert changed.fingerprint != usual.fingerprint
    assert (changed.scoped != usual.scoped) is (name in ("camera", "idempotency_key"))


def test_a_key_is_its_callers_and_its_cameras_own_however_they_are_spelt() -> None:
    spelt = [
        key_of(caller=caller, camera=camera, idempotency_key=key).scoped
        for caller in (None, "a", "a/b", "null")
        for camera in (None, "", "a", "b/K", "null")
        for key in ("K", "b/K", "a", "null")
    ]
    assert len(set(spelt)) == len(spelt)
    numbered = ScoreQuery.model_validate(SAME)
    items = [
        RepeatKey.of(numbered, caller=None, image_sha256="0", item=item).scoped
        for item in (None, 0, 1, 11)
    ]
    assert len(set(items)) == 4
    assert key_of(image="1" * 64).fingerprint != key_of().fingerprint
    same = key_of(triggered_at="2026-03-01T12:00:00Z")
    assert (
        key_of(triggered_at="2026-03-01T14:00:00+02:00")
        == same
        == key_of(triggered_at="2026-03-01T12:00:00")
    )
    longest = key_of(caller="k" * 64, camera="c" * 128, idempotency_key="K" * 128)
    assert len(longest.scoped) < 512 - len("#100000")


@pytest.fixture(params=["on", "off"])
def client(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path
) -> Iterator[TestClient]:
    app = create_app(settings(tiny_folder, record=request.param, record_dir=tmp_path))
    with TestClient(app, raise_server_exceptions=False) as open_client:
        yield open_client


def ask(client: TestClient, query: str, content: bytes = GOOD, **headers: str) -> Any:
    return client.post(f"/score?heatmap=none&{query}", content=content, headers=headers)


def test_a_key_that_is_none_is_refused(client: TestClient) -> None:
    for key in ("", "%20", "%20%20", "a" * 129, "a%00b", "a%0A", "a%23"):
        refused = ask(client, f"idempotency_key={key}")
        assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
        assert "idempotency_key" in refused.json()["detail"]


def test_a_repeat_is_held_against_the_first_in_image_and_parameters(client: TestClient) -> None:
    query = "idempotency_key=17&part_id=A&lot=L1"
    first = ask(client, query).json()
    for again in (query, f"model=tiny&{query}", f"priority=low&deadline_ms=9000&{query}"):
        assert ask(client, again).json() == first
    header = ask(client, "part_id=A&lot=L1", **{"x-maskline-idempotency-key": "17"})
    assert header.json() == first
    others = [
        (query, BAD),
        (query, GOOD + b"\0"),
        ("idempotency_key=17&part_id=B&lot=L1", GOOD),
        (f"{query}&threshold=1", GOOD),
        (f"{query}&false_alarm_rate=0.2", GOOD),
        (f"{query}&triggered_at=2026-03-01T12:00:00", GOOD),
        (f"{query}&program=R", GOOD),
    ]
    for changed, image in others:
        refused = ask(client, changed, image)
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_mismatch")
    empty = ask(client, query, b"")
    assert (empty.status_code, empty.json()["code"]) == (400, "image_empty")
    unknown = ask(client, f"{query}&model=nope", BAD)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model_not_found")
    other = ask(client, f"{query}&camera=right", BAD).json()
    assert (other["verdict"], other["camera"]) == ("NG", "right")
    assert ask(client, query).json() == first


def test_a_key_of_another_api_key_is_another_key(tiny_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    left, right = (add_key(keys, name, Role.SCORE) for name in ("left", "right"))
    with served(tiny_folder, tmp_path, auth="keys", keys_file=keys) as client:
        first = ask(client, "idempotency_key=17", GOOD, **{"X-API-Key": left}).json()
        other = ask(client, "idempotency_key=17", BAD, **{"X-API-Key": right}).json()
        assert other["score"] > 2 * first["score"]
        for secret, image, wanted in ((left, GOOD, first), (right, BAD, other)):
            again = ask(client, "idempotency_key=17", image, **{"X-API-Key": secret}).json()
            assert again["result_id"] == wanted["result_id"]
        assert ask(client, "idempotency_key=17", GOOD).status_code == 401


def test_each_image_of_a_batch_has_a_key_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    files = [("file", (f"{i}.png", png(normal_pixels(6100 + i)), "image/png")) for i in range(8)]
    path = "/v1/score/batch?heatmap=none&idempotency_key=batch-1"

    def ids(client: TestClient, sent: list[Any]) -> list[str]:
        items = client.post(path, files=sent).json()["items"]
        return [
            one["result"]["result_id"] if one["result"] else one["error"]["code"] for one in items
        ]

    with served(tiny_folder, tmp_path) as client:
        first = ids(client, files)
        assert len(set(first)) == 8
        assert {one["result_id"] for one in results(client, 8)} == set(first)
        assert ids(client, files) == first
        swapped = ids(client, [files[1], files[0], *files[2:]])
        assert swapped == ["idempotency_mismatch"] * 2 + first[2:]
    with served(tiny_folder, tmp_path) as client:  # the record remembers
        assert ids(client, files) == first
        assert len(results(client, 8)) == 8


def test_a_mismatch_is_known_after_a_restart(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path) as client:
        first = ask(client, "idempotency_key=17").json()
    with served(tiny_folder, tmp_path) as client:
        assert ask(client, "idempotency_key=17", BAD).json()["code"] == "idempotency_mismatch"
        again = ask(client, "idempotency_key=17").json()
        unknown = {"timings": {}, "input": None}  # what was unlike the calibration is not stored
        assert again | unknown == first | unknown
        assert len(results(client, 1)) == 1


@pytest.mark.parametrize("count", [2, 16])
def test_repeats_that_come_at_once_are_one_inspection(client: TestClient, count: int) -> None:
    held = Held(client.app)
    held.gate.clear()
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, client, "idempotency_key=n") for _ in range(count)]
        held.wait_until_busy()
        time.sleep(0.1)
        held.gate.set()
        answers = [one.result() for one in asked]
    assert {one.status_code for one in answers} == {200}
    assert len({one.json()["result_id"] for one in answers}) == 1
    assert held.sizes == [1]
    assert "maskline_in_flight_requests 0.0" in client.get("/metrics").text


def test_who_waits_for_the_first_keeps_the_deadline_and_one_takes_over_where_it_fails(
    client: TestClient,
) -> None:
    held = Held(client.app)
    held.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, client, "idempotency_key=n&deadline_ms=600")
        held.wait_until_busy()
        started = time.monotonic()
        late = ask(client, "idempotency_key=n&deadline_ms=50")
        assert time.monotonic() - started < 0.5
        assert (late.status_code, late.json()["code"]) == (504, "deadline_missed")
        patient = [pool.submit(ask, client, "idempotency_key=n&deadline_ms=9000") for _ in range(5)]
        assert first.result().status_code == 504
        held.gate.set()
        answers = [one.result() for one in patient]
    assert {one.status_code for one in answers} == {200}
    assert len({json.dumps(one.json()) for one in answers}) == 1
    assert "maskline_in_flight_requests 0.0" in client.get("/metrics").text


def test_through_two_processes_every_answer_is_stored_and_nobody_gets_anothers(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    with (
        served(tiny_folder, tmp_path / "one", database_url=shared) as one,
        served(tiny_folder, tmp_path / "two", database_url=shared) as two,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [
            pool.submit(ask, client, f"idempotency_key={key}&part_id={key}")
            for key in range(6)
            for client in (one, two, one, two)
        ]
        answers = [one.result().json() for one in asked]
        ids = {answer["result_id"] for answer in answers}
        assert 6 <= len(ids) <= 12
        assert {stored["result_id"] for stored in results(one, len(ids))} == ids
        for key in range(6):
            refused = ask(two, f"idempotency_key={key}&part_id={key}", BAD)
            assert refused.json()["code"] == "idempotency_mismatch"
    with served(tiny_folder, tmp_path / "three", database_url=shared) as three:
        for key in range(6):
            again = ask(three, f"idempotency_key={key}&part_id={key}").json()
            assert again["result_id"] in ids
            assert again["part_id"] == str(key)
