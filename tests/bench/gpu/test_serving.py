import pytest

from bench.gpu.serving import _between


def test_stages_are_means_between_two_readings() -> None:
    before = {"decode sum": 1.0, "decode count": 10.0, "batch sum": 10.0, "batch count": 10.0}
    after = {"decode sum": 1.2, "decode count": 110.0, "batch sum": 210.0, "batch count": 110.0}
    found = _between(before, after)
    assert found == pytest.approx({"decode ms": 2.0, "mean batch": 2.0})
    assert _between(after, after) == {}
