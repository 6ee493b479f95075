from pathlib import Path

import numpy as np
import pytest

from anomaly.conformal import Conformal
from anomaly.types import Placement
from bench.figures import Outcome, alarm_interval, bootstrap, figures
from bench.quality import promise, table
from bench.sessions import independent, with_tiles
from training.data import Dataset, Sample

WHOLE = Placement((200, 400), (100, 100), (0, 0, 100, 100))


def sample(root: Path, kind: str, name: str, split: str = "test") -> Sample:
    return Sample(root / split / kind / f"{name}.png", kind, split, name)


def with_boxes(root: Path, name: str, *boxes: tuple[int, int, int, int]) -> Sample:
    file = root / "boxes/defect" / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{' '.join(map(str, box))} 3\n" for box in boxes))
    return sample(root, "defect", name)


def spots(*places: tuple[int, int, float]) -> np.ndarray:
    """A canvas map with peaks at (x, y)."""
    one = np.zeros((100, 100), np.float32)
    for x, y, strength in places:
        one[y, x] = strength
    return one


def test_boxes_are_found_by_peaks_inside_them(tmp_path: Path) -> None:
    test = [
        sample(tmp_path, "good", "a"),
        with_boxes(tmp_path, "b", (100, 40, 140, 60), (300, 160, 320, 180)),
    ]
    maps = [spots((90, 10, 0.4)), spots((30, 25, 0.9), (5, 5, 0.8), (5, 90, 0.7), (77, 85, 0.1))]
    outcome = Outcome(
        Conformal.fit(np.array([0.1, 0.2]), ["x", "y"]),
        Conformal.fit(np.array([0.3, 0.6]), ["x", "y"]),
        np.array([0.3, 0.9]),
        maps,
        [WHOLE, WHOLE],
        {"train_s": 1.0},
    )
    found = figures(outcome, test)
    # Two images allow two false peaks; the third comes before the weak peak in the second box.
    assert found["box_recall"] == 0.5
    assert found["image_AUROC"] == 1.0
    assert found["alarms_5%"] == 1.0
    assert found["train_s"] == 1.0
    assert "pixel_AUROC" not in found
    assert found["region_iou"] == 0  # single pixels are no regions
    maps[1][90, 5] = 0
    assert figures(outcome, test)["box_recall"] == 1.0


def test_regions_are_drawn_above_what_maps_of_held_out_normals_reach(tmp_path: Path) -> None:
    test = [sample(tmp_path, "good", "a"), with_boxes(tmp_path, "b", (40, 20, 80, 40))]
    bad = np.zeros((100, 100), np.float32)
    bad[10:20, 10:20] = 0.9
    bad[50:60, 50:60] = 0.7

    def row(normal_peaks: float) -> dict[str, float]:
        normal = Conformal.fit(np.array([0.1, 0.2]), ["x", "y"])
        peaks = Conformal.fit(np.full(2, normal_peaks), ["x", "y"])
        maps = [np.zeros_like(bad), bad]
        return figures(Outcome(normal, peaks, np.array([0.1, 0.9]), maps, [WHOLE, WHOLE]), test)

    assert row(0.8)["box_precision"] == row(0.8)["region_iou"] == 1.0
    assert row(0.6)["box_precision"] == 0.5
    assert "box_precision" not in row(0.95)


def test_the_interval_holds_the_figure_and_widens_with_groups(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    scores = labels * 0.8 + generator.normal(0, 0.6, 120)
    single = [sample(tmp_path, ("good", "bad")[v], str(i)) for i, v in enumerate(labels)]
    from dataclasses import replace

    tens = [replace(s, session=str(i // 20)) for i, s in enumerate(single)]
    low, high = bootstrap(scores, single)
    assert low < 0.83 < high
    assert high - low < 0.2
    assert bootstrap(scores, tens) != (low, high)


def test_exposures_of_one_tile_are_one_session(tmp_path: Path) -> None:
    names = ["exp1_num_100", "exp2_num_120", "exp1_num_140", "exp5_num_160", "exp6_num_900"]
    samples = tuple(sample(tmp_path, "good", name, "train") for name in names)
    tiles = [s.session for s in with_tiles(Dataset(tmp_path, samples)).samples]
    assert tiles == ["tile1", "tile1", "tile2", "tile2", "tile3"]
    other = Dataset(tmp_path, (*samples, sample(tmp_path, "good", "part", "train")))
    assert with_tiles(other) is other


def test_a_picture_is_in_one_split_once_and_in_the_test_first(tmp_path: Path) -> None:
    pictures = {"train": "ABCC", "validation": "BD", "test": "AEE"}
    samples = []
    for split, contents in pictures.items():
        for number, content in enumerate(contents):
            one = sample(tmp_path, "good", f"{split}{number}", split)
            one.path.parent.mkdir(parents=True, exist_ok=True)
            one.path.write_text(content)
            samples.append(one)
    left = independent(Dataset(tmp_path, tuple(samples))).samples
    assert [s.path.stem for s in left] == ["train2", "validation0", "validation1", "test0", "test1"]


def test_a_group_counts_once_in_the_interval_of_false_alarms() -> None:
    rejected = np.array([True, True, True, False, False, False])
    assert alarm_interval(rejected, list("aaabcd")) == pytest.approx((0.0063, 0.8059), abs=1e-4)
    assert alarm_interval(rejected, list("abcdef")) == pytest.approx((0.1181, 0.8819), abs=1e-4)
    assert alarm_interval(np.zeros(100), [str(i) for i in range(100)]) == pytest.approx(
        (0, 0.0362), abs=1e-4
    )


def test_a_promise_says_whether_it_holds_or_cannot_be_made() -> None:
    row = {"normal_groups": 60, "alarms_5%": 0.04, "alarms_5%_interval": (0.01, 0.1)}
    assert "0.040 (0.010-0.100) holds." in promise([row], 0.05)
    assert "nothing can be promised: 60" in promise([row], 0.01)
    assert "EXCEEDED" in promise([row | {"alarms_5%_interval": (0.06, 0.2)}], 0.05)
    assert "holds, fewer" in promise([row | {"alarms_5%_interval": (0.0, 0.03)}], 0.05)


def test_a_table_has_a_column_for_what_any_method_was_measured_by() -> None:
    def row(**measured: float) -> dict[str, object]:
        return {"image_AUROC": 0.9, "interval": (0.8, 1.0), **measured}

    lines = table({"Maskline": [row(), row()], "PaDiM": [row(box_precision=0.25)]}).splitlines()
    assert lines[0] == "| method | image AUROC | box precision (reported) | 95 % of image AUROC |"
    assert lines[2] == "| Maskline | 0.900 ± 0.000 | - | 0.800-1.000 |"
    assert lines[3] == "| PaDiM | 0.900 | 0.250 | 0.800-1.000 |"
