from pathlib import Path

import numpy as np

from anomaly.bundle import Bundle
from anomaly.heatmap import encode_jpeg
from anomaly.runtime import detector_of
from bench.compression import Row, line, row
from tests.conftest import normal_pixels, planted
from training.data import Sample


def _written(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.write_bytes(encode_jpeg(pixels, 98))
    return path


def test_a_row_counts_what_the_threshold_rejects(tmp_path: Path, tiny_bundle: Bundle) -> None:
    good = [_written(tmp_path, f"good{n}.jpg", normal_pixels(900 + n)) for n in range(4)]
    bad = [
        _written(tmp_path, f"bad{n}.jpg", planted(normal_pixels(950 + n), 64, 48, 12))
        for n in range(4)
    ]
    test = [Sample(path, "good", "test", path.stem) for path in good]
    test += [Sample(path, "mark", "test", path.stem) for path in bad]
    one = row("model", detector_of(tiny_bundle), test, None)
    assert one.auroc == 1
    assert one.recall == 1
    assert one.false_alarms <= 0.5


def test_a_row_is_laid_out() -> None:
    one = Row("m", 50, 0.98765, 0.25, 0.5, 1.0)
    assert line(one) == "| m | 50 | 0.988 | 25.0% | 50.0% |"
