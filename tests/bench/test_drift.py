import itertools
from pathlib import Path

import numpy as np
import pytest

from anomaly.bundle import Bundle
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from bench import drift
from tests.conftest import normal_pixels, planted


@pytest.fixture
def good() -> list[RgbImage]:
    return [RgbImage(normal_pixels(5000 + i)) for i in range(60)]


def test_a_fading_lamp_and_a_new_defect_are_told_apart(
    tiny_bundle: Bundle, good: list[RgbImage]
) -> None:
    detector = detector_of(tiny_bundle)
    bad = [RgbImage(planted(one.pixels, 60, 40, 8)) for one in good[:10]]
    lamp = drift.run(detector, drift.fading(drift.drawn(good, [], 0, 240), 240), 240)
    assert lamp.finding == "camera"
    assert lamp.found_at is not None
    usual, new = drift.drawn(good, [], 0, 200), drift.drawn(good, bad, 0.2, 240)
    defect = drift.run(detector, itertools.chain(usual, new), 440)
    assert defect.finding == "parts"
    assert defect.found_at is not None
    assert defect.found_at > 200
    assert "| parts |" in drift.row("x", defect)


def test_light_goes_evenly(good: list[RgbImage]) -> None:
    dimmed = list(drift.fading(iter([good[0]] * 10), 10, 0.5))
    levels = [float(np.mean(one.pixels)) for one in dimmed]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == pytest.approx(0.55 * levels[0], rel=0.02)


def test_it_runs_from_folders(
    tiny_folder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["drift", str(tiny_data), str(tiny_folder), "--parts", "20"]
    monkeypatch.setattr("sys.argv", arguments)
    drift.main()
    said = capsys.readouterr().out
    assert "| as they are |" in said
    assert "| 10% with blob |" in said
