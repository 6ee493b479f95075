import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.http import login_limit as module
from service.http.login_limit import LoginLimit, address_of
from service.metrics import Metrics


def scope_of(address: str, method: str = "POST", path: str = "/v1/session") -> Scope:
    return {"type": "http", "method": method, "path": path, "headers": [], "client": (address, 1)}


class Gate:
    """The limit before a route that answers what it is told, at a clock set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.status = 401
        self.reading: Callable[[Request], object] | None = None
        self.limit = LoginLimit(self._route, metrics=Metrics(), clock=lambda: self.now)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.reading is not None:
            await self.reading(Request(scope, receive))  # type: ignore[misc]
        await Response(status_code=self.status)(scope, receive, send)

    async def ask(self, scope: Scope, body: bytes = b"") -> tuple[int, int]:
        """Return the status, and the seconds to wait."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.limit(scope, receive, send)
        headers = dict(sent[0]["headers"])
        return sent[0]["status"], int(headers.get(b"retry-after", b"0"))

    def log_in(self, address: str = "10.0.0.1") -> tuple[int, int]:
        return asyncio.run(self.ask(scope_of(address)))


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_ten_wrong_keys_a_minute_are_enough(gate: Gate) -> None:
    for second in range(10):
        gate.now = float(second)
        assert gate.log_in() == (401, 0)
    gate.now, gate.status = 20.0, 200
    assert gate.log_in() == (429, 40)  # until the first is a minute old
    assert gate.log_in("10.0.0.2") == (200, 0)
    gate.now = 60.0
    assert gate.log_in() == (200, 0)


def test_guessing_goes_on_at_ten_a_minute_and_no_faster(gate: Gate) -> None:
    tried = 0
    for half_second in range(600):
        gate.now = half_second / 2
        tried += gate.log_in()[0] == 401
    assert tried == 50  # in five minutes


def test_only_wrong_keys_count(gate: Gate) -> None:
    for status in (200, 422, 403, 413):
        gate.status = status
        assert {gate.log_in()[0] for _ in range(20)} == {status}


def test_nothing_else_is_limited(gate: Gate) -> None:
    for method, path in (("GET", "/v1/session"), ("POST", "/score"), ("DELETE", "/v1/session")):
        for _ in range(20):
            assert asyncio.run(gate.ask(scope_of("10.0.0.1", method, path)))[0] == 401


def test_what_is_remembered_is_bounded(gate: Gate) -> None:
    for number in range(3000):
        gate.log_in(f"10.0.{number // 256}.{number % 256}")
    assert len(gate.limit._wrong) == 1000
    assert not gate.limit._inside


async def _fill(gate: Gate, addresses: list[str]) -> list[int]:
    """Statuses of logins of which none ends before all began."""
    release = asyncio.Event()

    async def wait(request: Request) -> None:
        await release.wait()

    gate.reading, gate.status = wait, 200
    tasks = [asyncio.create_task(gate.ask(scope_of(address))) for address in addresses]
    await asyncio.sleep(0.01)
    release.set()
    return [status for status, _ in await asyncio.gather(*tasks)]


def test_an_address_is_read_four_times_at_once(gate: Gate) -> None:
    statuses = asyncio.run(_fill(gate, ["10.0.0.1"] * 10 + ["10.0.0.2"]))
    assert statuses == [200] * 4 + [429] * 6 + [200]
    gate.reading = None
    assert gate.log_in() == (200, 0)


def test_logins_are_read_32_at_once(gate: Gate) -> None:
    statuses = asyncio.run(_fill(gate, [f"10.0.0.{number}" for number in range(40)]))
    assert statuses.count(200) == 32


def test_a_place_is_free_again_after_a_fault(gate: Gate) -> None:
    async def fail(request: Request) -> None:
        raise ValueError

    gate.reading = fail
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^$"):
            gate.log_in()


def test_a_body_is_short_and_quick(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BODY_S", 0.05)

    async def never() -> Message:
        await asyncio.sleep(10)
        raise AssertionError

    async def read(request: Request) -> None:
        await request.body()

    gate.reading = read
    with pytest.raises(HTTPException) as caught:
        asyncio.run(gate.ask(scope_of("10.0.0.1"), b"x" * 4097))
    assert caught.value.status_code == 413
    with pytest.raises(HTTPException) as caught:
        asyncio.run(gate.limit(scope_of("10.0.0.1"), never, never))  # type: ignore[arg-type]
    assert caught.value.status_code == 408


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_who_has_a_network_is_one_client(client: str, address: str) -> None:
    assert address_of(scope_of(client)) == address
    assert address_of({"type": "http", "client": None}) == ""


@given(client=st.text())
def test_no_address_breaks_the_limit(client: str) -> None:
    with contextlib.suppress(UnicodeError):
        assert len(address_of(scope_of(client))) <= 64
