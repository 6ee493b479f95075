import pytest

from service.inference.limits import Room


def test_a_queue_that_was_full_is_short_until_nobody_was_refused_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("service.inference.limits.time.monotonic", lambda: now)
    room = Room(64)
    assert room.has_room(63)
    assert not room.has_room(64)
    assert room.has_room(15)
    now += 4
    assert not room.has_room(16)  # which counts as well
    now += 4.9
    assert not room.has_room(30)
    now += 5.1
    assert room.has_room(63)
    assert not Room(4).has_room(4)
    assert Room(4).has_room(3)
