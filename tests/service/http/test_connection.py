"""Bytes fed by hand: over a socket it is the kernel that decides where one piece ends."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.http.connection import BoundedConnection

HEAD = b"POST /score HTTP/1.1\r\nHost: line\r\n"


class Wire(asyncio.Transport):
    """What a socket would have sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.end = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.sent += data

    def close(self) -> None:
        self.end.set()

    def abort(self) -> None:
        self.end.set()

    def is_closing(self) -> bool:
        return self.end.is_set()

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""

    def answers(self) -> list[int]:
        return [int(one[:3]) for one in self.sent.split(b"HTTP/1.1 ")[1:]]


async def _unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await PlainTextResponse("no", 404)(scope, receive, send)


def _with_connection(
    check: Callable[[BoundedConnection, Wire], Awaitable[None]], keep_alive_s: int = 60
) -> None:
    async def run() -> None:
        one, wire = _connect(ServerState(), keep_alive_s=keep_alive_s)
        try:
            await check(one, wire)
        finally:
            one.connection_lost(None)

    asyncio.run(run())


def _connect(
    state: ServerState, *, keep_alive_s: int = 60, room: int = 100
) -> tuple[BoundedConnection, Wire]:
    config = uvicorn.Config(
        _unread, log_config=None, lifespan="off", timeout_keep_alive=keep_alive_s
    )
    one = BoundedConnection(
        head_s=1.0, room=room, config=config, server_state=state, app_state={}, _loop=None
    )
    wire = Wire()
    one.connection_made(wire)
    return one, wire


async def _answered(wire: Wire, answers: list[int]) -> None:
    for _ in range(1000):
        if len(wire.answers()) >= len(answers):
            break
        await asyncio.sleep(0.001)
    assert wire.answers() == answers


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_the_end_of_an_unread_body_is_no_head(pieces: int) -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        size = 100_000 * pieces
        one.data_received(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        await _answered(wire, [404])
        for _ in range(pieces):
            one.data_received(b"a" * 100_000)
        assert not wire.is_closing()
        one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
        await _answered(wire, [404, 404])
        assert not wire.is_closing()

    _with_connection(check)


@pytest.mark.parametrize("piece", [1_000, 100_000])
def test_a_head_without_end_is_refused(piece: int) -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"X-Long: ")
        fed = 0
        while not wire.is_closing() and fed < 200_000:
            one.data_received(b"a" * piece)
            fed += piece
        assert wire.answers() == [400]
        assert wire.is_closing()
        assert fed < 65_536 + piece

    _with_connection(check)


def test_heads_on_one_connection_are_counted_one_by_one() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        long = HEAD + b"X-Long: " + b"a" * 40_000
        for number in range(1, 4):
            one.data_received(long)
            one.data_received(b"\r\nContent-Length: 0\r\n\r\n")
            await _answered(wire, [404] * number)
        assert not wire.is_closing()

    _with_connection(check)


def test_after_an_answer_a_connection_may_idle_but_not_begin_and_stop() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        for number in range(1, 3):
            one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
            await _answered(wire, [404] * number)
            await asyncio.sleep(1.5)  # a head may take one second
        assert not wire.is_closing()
        one.data_received(HEAD)
        await asyncio.wait_for(wire.end.wait(), 10)

    _with_connection(check)


def test_a_head_that_began_before_the_answer_has_its_time_from_there() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Content-Length: 0\r\n\r\n" + HEAD)
        await _answered(wire, [404])
        await asyncio.wait_for(wire.end.wait(), 10)

    _with_connection(check)


def test_what_is_left_of_an_unread_body_has_the_time_of_a_head() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Content-Length: 1000\r\n\r\n")
        await _answered(wire, [404])
        one.data_received(b"a" * 100)
        await asyncio.wait_for(wire.end.wait(), 10)

    _with_connection(check)


def test_an_idle_connection_is_closed_in_the_end() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
        await _answered(wire, [404])
        await asyncio.wait_for(wire.end.wait(), 10)

    _with_connection(check, keep_alive_s=1)


@pytest.mark.parametrize(
    ("brief_s", "wanted"),
    [(0.0, [[0], [0, 1], [0, 1, 3], [0, 1, 2, 3]]), (5.0, [[2], [2, 4], [2, 4, 5], [2, 4, 5, 6]])],
)
def test_a_connection_too_many_ends_the_one_idle_longest_then_the_oldest_head(
    brief_s: float, wanted: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.connection._BRIEF_S", brief_s)

    async def run() -> None:
        state = ServerState()
        made = [_connect(state, room=4) for _ in range(4)]
        for one, wire in (made[2], made[0], made[1], made[3]):
            one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
            await _answered(wire, [404])
            await asyncio.sleep(0.01)
        made[2][0].data_received(HEAD)  # idle no more, though nothing of it is answered
        ended = []
        for _ in range(4):  # at once: none of those that end is gone yet
            made.append(_connect(state, room=4))
            ended.append([number for number, (_, wire) in enumerate(made) if wire.is_closing()])
        for one, _ in made:
            one.connection_lost(None)
        assert ended == wanted

    asyncio.run(run())


def test_a_late_head_goes_before_who_idles_and_an_unread_answer_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.http.connection._BRIEF_S", 0.0)
    monkeypatch.setattr("service.http.connection._HEAD_S", 0.05)

    async def run() -> None:
        state = ServerState()
        idle, late, unread, busy = (_connect(state, room=4) for _ in range(4))
        for one, wire in (idle, unread):
            one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
            await _answered(wire, [404])
        unread[0].pause_writing()
        busy[0].data_received(HEAD + b"Content-Length: 9\r\n\r\n")
        busy[0].on_response_complete = lambda: None  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        made = [idle, late, unread, busy]
        ended = []
        for _ in range(3):
            made.append(_connect(state, room=4))
            ended.append([one for one in range(4) if made[one][1].is_closing()])
        for one, _ in made:
            one.connection_lost(None)
        assert ended == [[2], [1, 2], [0, 1, 2]]

    asyncio.run(run())


def test_an_answer_that_nobody_reads_ends_its_connection() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
        await _answered(wire, [404])
        one.pause_writing()
        one.resume_writing()
        await asyncio.sleep(1.2)
        assert not wire.is_closing()  # it went on in time
        one.pause_writing()
        await asyncio.wait_for(wire.end.wait(), 3)

    _with_connection(check)


def test_a_refusal_can_be_read_before_the_connection_is_closed() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Connection: close\r\nContent-Length: 90000000\r\n\r\nx")
        await _answered(wire, [404])
        await asyncio.sleep(0.05)
        assert not wire.is_closing()
        one.data_received(b"x" * 1000)  # thrown away
        assert one.is_lingering
        await asyncio.wait_for(wire.end.wait(), 3)
        assert wire.answers() == [404]

    _with_connection(check)


def test_no_more_than_some_megabytes_are_thrown_away() -> None:
    async def check(one: BoundedConnection, wire: Wire) -> None:
        one.data_received(HEAD + b"Connection: close\r\nContent-Length: 90000000\r\n\r\nx")
        await _answered(wire, [404])
        await asyncio.sleep(0.02)
        for _ in range(9):
            one.data_received(bytes(1_000_000))
        assert wire.is_closing()

    _with_connection(check)
