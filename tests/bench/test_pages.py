import pytest

pytest.importorskip("aiohttp")

from bench.load import Load
from bench.pages import Turn, table


def turn(streams: int, latency_s: float) -> Turn:
    load = Load(seconds=1.0, latencies=[latency_s] * 10)
    return Turn(streams, load, events=10 * streams, cpu_ms=1.0)


def test_rounds_are_compared_each_with_its_own() -> None:
    turns = [turn(0, 0.1), turn(32, 0.11), turn(32, 0.202), turn(0, 0.2)]
    text = table(turns)
    assert "| 0 | 10.0 | 150.0 | 150.0 | 1.00 | 0.00 | 0 |" in text
    assert "| 32 | 10.0 | 156.0 | 156.0 | 1.00 | 32.00 | 0 |" in text
    assert "p99 with streams, by round: +10.0 %, +1.0 %; median +5.5 %" in text
