import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle
from anomaly.types import Placement, Region
from bench.detection import drawn, measured, table
from bench.region_boxes import Described, describe, named
from bench.small_detector import SmallDetector
from supervised.boxes import BoxConfig
from training.boxes import Boxes
from training.samples import Sample


def board(name: str) -> Sample:
    return Sample(Path("set/test/defect") / name, "defect", "test", name)


def region(x: int, y: int, side: int, peak: float = 1.0) -> Region:
    return Region((x, y, side, side), side**2, (x, y), (x, y), peak)


def test_boards_of_one_design_are_labelled_or_tested_on_never_both() -> None:
    boards = [board(f"{design:05d}{i:03d}.jpg") for design in range(7) for i in range(design + 1)]
    split = drawn(boards, r"^\d{5}", seed=0)
    pool, test = ({s.path.name[:5] for s in part} for part in (split.pool, split.test))
    assert not pool & test
    assert len(split.pool) + len(split.test) == len(boards)
    assert len(split.test) >= len(boards) / 2
    assert len(drawn(boards, r"^\d{5}", seed=0, at_most=2).test) == 2
    assert drawn(boards, r"^\d{5}", seed=0) == split
    assert drawn(boards, r"^\d{5}", seed=1) != split


def test_regions_are_boxes_and_a_higher_peak_is_surer() -> None:
    item = Described((region(1, 2, 10), region(5, 5, 4, peak=3.0)), np.eye(2, dtype=np.float32))
    boxes = item.boxes(["dent", "scratch"])
    assert boxes.corners.tolist() == [[1, 2, 11, 12], [5, 5, 9, 9]]
    assert boxes.kinds == ("dent", "scratch")
    assert boxes.scores.tolist() == [0.5, 0.75]
    assert item.boxes().kinds == ("defect", "defect")


def test_regions_are_named_after_the_boxes_that_others_lay_on() -> None:
    generator = np.random.default_rng(0)

    def item(kind: int) -> Described:
        embedding = np.eye(8, dtype=np.float32)[[kind]] + generator.normal(0, 0.05, (1, 8))
        return Described((region(10, 10, 10),), embedding.astype(np.float32))

    labelled = [item(kind) for kind in (0, 1, 0, 1)]
    truths = [Boxes.labelled([[9, 9, 21, 21]], [name]) for name in ("a", "b", "a", "b")]
    nothing = Described((), np.zeros((0, 8), np.float32))
    answers = named(labelled, truths, [item(1), item(0), nothing])
    assert [boxes.kinds for boxes in answers] == [("b",), ("a",), ()]
    # A region beside every box teaches nothing; of one kind there is nothing to choose from.
    aside = [Boxes.labelled([[50, 50, 60, 60]], ["a"])] * 4
    assert named(labelled, aside, [item(1)])[0].kinds == ("defect",)
    alike = [Boxes.labelled([[9, 9, 21, 21]], ["a"])] * 4
    assert named(labelled, alike, [item(1)])[0].kinds == ("a",)


def test_a_region_is_described_by_a_unit_vector(tiny_bundle: Bundle, tiny_data: Path) -> None:
    path = tiny_data / "test/blob/000.png"
    [item] = describe(tiny_bundle, [Sample(path, "blob", "test", "a")])
    assert 0 < len(item.regions) == len(item.embeddings)
    assert np.linalg.norm(item.embeddings, axis=1) == pytest.approx(1, abs=1e-4)
    x, y, width, height = item.regions[0].bbox
    assert x <= 30 <= x + width  # the planted patch lies around (30, 30)
    assert y <= 30 <= y + height


def test_a_small_detector_learns_and_answers() -> None:
    network = SmallDetector(("a", "b"), BoxConfig(channels=16, head_width=32, score_floor=0.0))
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2])}
    losses = network.train().losses(torch.rand(1, 3, 64, 64), [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    [answer] = network.eval().answers(torch.rand(1, 3, 64, 64), [Placement.filling(64)])
    assert {box.kind for box in answer.boxes} <= {"a", "b"}


def test_every_way_is_measured_at_every_number_of_boards(
    tiny_folder: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = []
    for index in range(6):
        image = cv2.imread(str(tiny_data / f"test/blob/{index:03d}.png"))
        path = tmp_path / f"test/defect/{index % 3}{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        labels = tmp_path / f"boxes/defect/{path.stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        x, y = 20 + 10 * index, 20 + 6 * index
        labels.write_text(f"{x} {y} {x + 20} {y + 20} {index % 2}\n")
        samples.append(Sample(path, "defect", "test", path.stem))
    options = argparse.Namespace(
        model=tiny_folder,
        boards=[1, 2],
        steps=2,
        batch=2,
        rate=1e-3,
        ways=["regions", "tuned", "scratch", "small"],
        set=["canvas=64", "head.channels=16", "head.head_width=32"],
    )
    rows = measured(drawn(samples, r"^\d", seed=0), options, seed=0)
    assert [(row["way"], row["boards"]) for row in rows] == [
        (way, count) for way in options.ways for count in options.boards
    ]
    assert all(0 <= row["AP50"] <= 1 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    assert "| regions | " in table(rows, [1, 2])
    options.boards = [9]
    with pytest.raises(SystemExit, match="want 9"):
        measured(drawn(samples, r"^\d", seed=0), options, seed=0)
