import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http import sessions as module
from service.http.api_keys import Key, KeyRing, Role, add_key, revoke_key
from service.http.sessions import LIFE_S, Sessions, cookie_name, session_id_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Logins:
    """Keys, sessions and a clock that is set by hand."""

    def __init__(self, path: Path, names: tuple[str, ...] = ("a", "b")) -> None:
        self.path, self.clock = path, Clock()
        secrets = [add_key(path, name, Role.REVIEW) for name in names]
        self.ring = KeyRing(path)
        self.keys = [self.find(secret) for secret in secrets]
        self.sessions = Sessions(self.ring, clock=self.clock)

    def find(self, secret: str) -> Key:
        key = self.ring.find(secret)
        assert key is not None
        return key


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    return Logins(tmp_path / "keys.json")


def test_an_id_stands_for_its_key_and_is_not_stored(logins: Logins) -> None:
    first, second = logins.keys
    session_id, other = logins.sessions.open(first), logins.sessions.open(second)
    assert logins.sessions.find(session_id) == first
    assert logins.sessions.find(other) == second
    assert logins.sessions.find(session_id + "x") is None
    assert logins.sessions.find("") is None
    assert len(session_id) >= 43  # 256 bits
    assert session_id not in repr(logins.sessions._sessions)


def test_a_session_ends_after_twelve_hours(logins: Logins) -> None:
    session_id = logins.sessions.open(logins.keys[0])
    logins.clock.now += LIFE_S - 1
    assert logins.sessions.may(session_id, Role.VIEW)
    logins.clock.now += 1
    assert not logins.sessions.may(session_id, Role.VIEW)
    assert len(logins.sessions) == 0


def test_sessions_that_ended_make_room(logins: Logins) -> None:
    logins.sessions.open(logins.keys[0])
    logins.clock.now += LIFE_S
    logins.sessions.open(logins.keys[1])
    assert len(logins.sessions) == 1


def test_a_session_ends_when_asked(logins: Logins) -> None:
    session_id, other = (logins.sessions.open(logins.keys[0]) for _ in range(2))
    logins.sessions.end(session_id)
    logins.sessions.end("never was")
    assert logins.sessions.find(session_id) is None
    assert logins.sessions.find(other) is not None


def test_a_session_ends_with_its_key_and_has_its_present_roles(logins: Logins) -> None:
    session_id, other = (logins.sessions.open(key) for key in logins.keys)
    assert logins.sessions.may(session_id, Role.REVIEW)
    text = logins.path.read_text()
    logins.path.write_text(text.replace('"review"', '"view"'))
    assert logins.sessions.may(session_id, Role.VIEW)
    assert not logins.sessions.may(session_id, Role.REVIEW)
    revoke_key(logins.path, "a")
    assert not logins.sessions.may(session_id, Role.VIEW)
    assert logins.sessions.may(other, Role.VIEW)


def test_another_key_of_the_same_name_is_another(logins: Logins) -> None:
    session_id = logins.sessions.open(logins.keys[0])
    revoke_key(logins.path, "a")
    add_key(logins.path, "a", Role.ADMIN)
    assert logins.sessions.find(session_id) is None


@given(who=st.lists(st.integers(0, 3), max_size=60))
def test_sessions_are_bounded_and_the_newest_stay(who: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST", 6)
        patch.setattr(module, "_MOST_A_KEY", 2)
        logins = Logins(Path(folder) / "keys.json", ("a", "b", "c", "d"))
        opened = [(number, logins.sessions.open(logins.keys[number])) for number in who]
        assert len(logins.sessions) <= 6
        alive = [number for number, session_id in opened if logins.sessions.find(session_id)]
        assert all(alive.count(number) <= 2 for number in alive)
        for _, session_id in opened[-2:]:
            assert logins.sessions.find(session_id) is not None


def test_one_key_cannot_end_the_sessions_of_others(logins: Logins) -> None:
    session_id = logins.sessions.open(logins.keys[0])
    for _ in range(2000):
        logins.sessions.open(logins.keys[1])
    assert logins.sessions.find(session_id) is not None
    assert len(logins.sessions) == 51


def asked(**headers: str) -> dict[str, object]:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "headers": pairs}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("plant", "maskline_session"),
        ("plant:8001", "maskline_session_8001"),
        ("[::1]:8001", "maskline_session_8001"),
        ("[::1]", "maskline_session"),
        ("plant:80;x=y", "maskline_session"),
    ],
)
def test_services_on_two_ports_of_a_machine_have_two_cookies(host: str, name: str) -> None:
    assert cookie_name(asked(host=host)) == name
    assert session_id_of(asked(host=host, cookie=f"theme=dark; {name}=abc")) == "abc"
    assert session_id_of(asked(host=host, cookie="maskline_session_9=abc")) == ""
    assert session_id_of(asked(host=host)) == ""


@given(cookie=st.text(st.characters(max_codepoint=255)))
def test_no_cookie_breaks_the_reading(cookie: str) -> None:
    assert isinstance(session_id_of(asked(host="h", cookie=cookie)), str)
