from pathlib import Path

import pytest

from anomaly.bundle import Bundle
from anomaly.runtime import detector_of
from bench.canvases import milliseconds, on_canvas, table
from training.config import TrainConfig
from training.data import open_dataset


def test_the_table_marks_the_plan_and_says_what_it_loses() -> None:
    row = {
        "set": "a",
        "canvas": 224,
        "planned": True,
        "ms": 55.4,
        "image_AUROC": 0.9,
        "image_pAUROC": 0.8,
        "reachable": 0.7,
        "train_s": 200,
    }
    larger = row | {"canvas": 448, "planned": False, "image_AUROC": 0.912}
    lines = table([row, larger]).splitlines()
    assert lines[2] == "| a | **224** | 0.900 | 0.800 | 0.700 | 55 | 200 |"
    assert lines[3].startswith("| a | 448 | 0.912 |")
    assert "at most 0.012" in lines[-1]


@pytest.mark.slow
def test_a_canvas_is_trained_tested_and_timed(
    tiny_bundle: Bundle, tiny_config: TrainConfig, tiny_data: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(tiny_data)
    row = on_canvas(dataset, tmp_path / "64", tiny_config)
    assert row["image_AUROC"] > 0.8
    assert 0 <= row["reachable"] <= 1
    timed = milliseconds({64: detector_of(tiny_bundle)}, dataset)
    assert timed[64] > 0
