import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly.errors import ShapeError
from training.boxes import Boxes, check_inside, labelled_boxes
from training.errors import DataError
from training.samples import Sample


def sample(root: Path, kind: str = "dent", name: str = "a.png") -> Sample:
    return Sample(root / "test" / kind / name, kind, "test", "a")


def lines(root: Path, text: str) -> Sample:
    (root / "boxes/dent").mkdir(parents=True)
    (root / "boxes/dent/a.txt").write_text(text)
    return sample(root)


def coco(root: Path, **changes: Any) -> Sample:
    content = {
        "images": [{"id": 7, "file_name": "test/dent/a.png"}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "hole"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]}],
    }
    (root / "annotations.json").write_text(json.dumps(content | changes))
    return sample(root)


def test_boxes_are_read_from_a_text_file_for_each_image(tmp_path: Path) -> None:
    boxes = labelled_boxes(lines(tmp_path, "1 2 11 22 3\n\n 5.5 6 7 8 pin hole \n"))
    assert boxes.corners.tolist() == [[1, 2, 11, 22], [5.5, 6, 7, 8]]
    assert boxes.kinds == ("3", "pin hole")
    assert boxes.scores.tolist() == [1, 1]


def test_boxes_are_read_from_a_coco_file_by_path_or_by_name(tmp_path: Path) -> None:
    boxes = labelled_boxes(coco(tmp_path))
    assert boxes.corners.tolist() == [[1, 2, 11, 22]]
    assert boxes.kinds == ("hole",)
    assert len(labelled_boxes(sample(tmp_path, name="b.png"))) == 0  # listed, and without a box
    with pytest.raises(DataError, match="lists no image test/dent/c"):
        labelled_boxes(sample(tmp_path, name="c.png"))


def test_a_coco_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    assert len(labelled_boxes(coco(tmp_path))) == 1
    assert len(labelled_boxes(coco(tmp_path, annotations=[]))) == 0


def test_a_coco_file_says_what_is_in_an_image_whatever_its_folder_is_called(tmp_path: Path) -> None:
    coco(tmp_path, images=[{"id": 7, "file_name": "test/good/a.png"}])
    assert labelled_boxes(sample(tmp_path, "good")).kinds == ("hole",)
    assert len(labelled_boxes(sample(tmp_path, "good", "unlisted.png"))) == 0
    (tmp_path / "images").mkdir()
    coco(tmp_path / "images", images=[{"id": 7, "file_name": "a.png"}])
    beside = Sample(tmp_path / "images/a.png", "good", "train", "a")
    assert labelled_boxes(beside).kinds == ("hole",)


def test_a_good_part_has_no_boxes_and_a_defect_must_have_some_said(tmp_path: Path) -> None:
    assert len(labelled_boxes(sample(tmp_path, "good"))) == 0
    with pytest.raises(DataError, match=r"want boxes/dent/a\.txt"):
        labelled_boxes(sample(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4\n", "want 'x1 y1 x2 y2 kind'"),
        ("1 2 three 4 dent\n", "want four numbers"),
        ("5 2 5 9 dent\n", "without area"),
        ("5 9 8 9 dent\n", "without area"),
        ("9 2 5 9 dent\n", "without area"),
        ("1 2 nan 9 dent\n", "without area"),
    ],
)
def test_a_line_that_is_no_box_is_refused_by_its_number(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        labelled_boxes(lines(tmp_path, "1 2 11 22 dent\n" + text))
    assert "line 2 of" in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 0, 20]}]},
        {"annotations": [{"image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]},
        {"images": 4},
    ],
)
def test_a_coco_file_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"annotations\.json"):
        labelled_boxes(coco(tmp_path, **changes))


def test_a_box_outside_the_image_is_refused_and_a_pixel_is_forgiven() -> None:
    check_inside(Boxes.labelled([[-1, 0, 21, 10]], ["dent"]), (10, 20), "a.png")
    with pytest.raises(DataError, match="of one size"):
        check_inside(Boxes.labelled([[0, 0, 20, 12]], ["dent"]), (10, 20), "a.png")


def test_kinds_can_be_forgotten_and_lengths_must_agree() -> None:
    boxes = Boxes(np.array([[0, 0, 1, 1.0]]), ("dent",), np.array([0.5]))
    assert boxes.without_kinds().kinds == ("defect",)
    assert boxes.without_kinds().scores.tolist() == [0.5]
    with pytest.raises(ShapeError, match=r"wanted \(1, 4\)"):
        Boxes(np.zeros((2, 4)), ("dent",), np.ones(1))
