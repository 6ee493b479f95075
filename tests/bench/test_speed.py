import threading
from pathlib import Path

import pytest

from anomaly.bundle import Bundle
from bench import speed
from bench.speed import Method, Timed, auroc, limit_ms, ours, table, timings
from training.data import Dataset, open_dataset


def by_size(data: bytes) -> float:
    return float(len(data))


@pytest.fixture
def dataset(tiny_data: Path) -> Dataset:
    return open_dataset(tiny_data)


def test_loops_run_side_by_side_and_a_lone_image_by_itself(dataset: Dataset) -> None:
    both = threading.Barrier(2, timeout=30)  # loops that took turns would wait for ever

    def beside(data: bytes) -> float:
        both.wait()
        return by_size(data)

    timed = timings([Method("a", by_size, [beside, beside])], dataset, 2)
    assert timed["a"].ms >= 0
    assert timed["a"].rate > 0


def test_every_method_is_held_against_the_first_one() -> None:
    timed = {"a": Timed(10.0, 100.0), "b": Timed(5.0, 50.0)}
    lines = table({"a": 0.9, "b": None}, timed).splitlines()
    assert lines[2:] == ["| a | 0.900 | 10.0 | 100.0 | 1.00 |", "| b | – | 5.0 | 50.0 | 0.50 |"]


def test_ours_is_the_detector_that_serves(tiny_bundle: Bundle, dataset: Dataset) -> None:
    methods = ours(tiny_bundle)
    assert [method.name for method in methods] == ["Maskline", "Maskline, float32"]
    data = dataset.select("test")[0].path.read_bytes()
    scores = {inspect(data) for method in methods for inspect in (method.alone, *method.loops)}
    assert len(scores) == 1
    quality = auroc(methods[0], dataset)
    assert quality is not None
    assert quality > 0.8
    assert auroc(Method(speed._UNTRAINED, by_size, [by_size]), dataset) is None


def test_the_limit_is_less_than_any_inspection_takes(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "matrix_rate", lambda device, dtype: 1e9)
    slow = limit_ms(tiny_bundle.model)
    monkeypatch.setattr(speed, "matrix_rate", lambda device, dtype: 2e9)
    assert limit_ms(tiny_bundle.model) == pytest.approx(slow / 2)
    assert slow > 0
