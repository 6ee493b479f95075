import json
from pathlib import Path

import pytest

from training.progress import Progress, ProgressFile, progress_to


def test_a_file_says_stage_count_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("training.progress.time.monotonic", lambda: float(next(clock)))
    path = tmp_path / "progress.json"
    with progress_to(path).bar("training", total=10, unit="step", initial=4) as bar:
        assert json.loads(path.read_text())["done"] == 4
        bar.update(2)
        bar.tell("loss 0.5", loss=0.5, images_per_s=32.0)
    state = json.loads(path.read_text())
    assert state.pop("left_s") > 0
    assert state == {
        "stage": "training",
        "done": 6,
        "total": 10,
        "images_per_s": 32.0,
        "loss": 0.5,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_at_most_twice_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("training.progress.time.monotonic", lambda: now)
    path, seen = tmp_path / "progress.json", []
    with progress_to(path).bar("features", total=1000, unit="image") as bar:
        for _ in range(1000):
            now += 0.002
            bar.update()
            seen.append(path.read_text())
    assert 2 <= len(set(seen)) <= 5
    assert json.loads(seen[-1])["images_per_s"] == 500


def test_items_are_counted_as_they_are_worked_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    for index in progress_to(path).each(range(3), "canvas", total=3, unit="canvas"):
        state = json.loads(path.read_text())
        assert state["stage"] == "canvas"
        assert state["done"] <= index


def test_a_disk_that_takes_nothing_ends_no_work(tmp_path: Path) -> None:
    progress = Progress(is_shown=False, file=ProgressFile(tmp_path / "gone" / "progress.json"))
    assert list(progress.each(range(3), "x", total=3, unit="image")) == [0, 1, 2]
