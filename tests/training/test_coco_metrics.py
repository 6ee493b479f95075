import sys

import numpy as np
import pytest

from training.boxes import Boxes
from training.coco_metrics import coco_by_kind, coco_figures
from training.errors import DataError

TRUTH = [
    Boxes.labelled([[0, 0, 10, 10], [20, 20, 40, 40]], ["dent", "scratch"]),
    Boxes.labelled([[5, 5, 15, 25]], ["dent"]),
    Boxes.labelled(),
]
NOTHING = [Boxes.labelled()] * 3


def said(*rows: tuple[float, float, float, float, str, float]) -> Boxes:
    return Boxes(
        np.array([row[:4] for row in rows], float).reshape(-1, 4),
        tuple(row[4] for row in rows),
        np.array([row[5] for row in rows], float),
    )


def test_the_truth_itself_is_perfect_and_nothing_is_zero() -> None:
    assert coco_figures(TRUTH, TRUTH) == {"AP": 1, "AP50": 1, "AP75": 1, "AR": 1}
    assert coco_figures(TRUTH, NOTHING) == {"AP": 0, "AP50": 0, "AP75": 0, "AR": 0}


def test_one_kind_of_two_is_half() -> None:
    answers = [said((0, 0, 10, 10, "dent", 0.9)), said((5, 5, 15, 25, "dent", 0.8)), said()]
    assert coco_figures(TRUTH, answers) == {"AP": 0.5, "AP50": 0.5, "AP75": 0.5, "AR": 0.5}
    by_kind = coco_by_kind(TRUTH, answers)
    assert by_kind["dent"]["AP"] == 1
    assert by_kind["scratch"]["AP"] == 0


def test_half_of_a_kind_s_boxes_is_the_share_of_recalls_that_are_reached() -> None:
    answers = [said((0, 0, 10, 10, "dent", 0.9)), said(), said()]
    figures = coco_by_kind(TRUTH, answers)["dent"]
    # COCO's precision is read at recalls 0, .01 .. 1, of which 51 of 101 lie at or below .5.
    assert figures["AP50"] == pytest.approx(51 / 101)
    assert figures["AR"] == pytest.approx(0.5)


def test_a_loose_box_counts_up_to_its_overlap() -> None:
    # 8 of 10 columns: an overlap of .8, which passes .50, .55 .. .80 of .50 .. .95.
    truth, answers = [Boxes.labelled([[0, 0, 10, 10]], ["dent"])], [said((0, 0, 8, 10, "dent", 1))]
    figures = coco_figures(truth, answers)
    assert figures["AP50"] == figures["AP75"] == 1
    assert figures["AP"] == figures["AR"] == pytest.approx(0.7, abs=0.101)  # .8 itself is rounding


def test_a_surer_wrong_box_halves_precision_and_another_kind_s_does_not() -> None:
    truth = [Boxes.labelled([[0, 0, 10, 10]], ["dent"])]
    right = (0, 0, 10, 10, "dent", 0.5)
    assert coco_figures(truth, [said((50, 50, 60, 60, "dent", 0.9), right)])["AP50"] == 0.5
    assert coco_figures(truth, [said((50, 50, 60, 60, "dirt", 0.9), right)])["AP50"] == 1
    wrong_kind = [said((0, 0, 10, 10, "dirt", 0.9))]
    assert coco_figures(truth, wrong_kind)["AP50"] == 0
    alike = [boxes.without_kinds() for boxes in truth], [b.without_kinds() for b in wrong_kind]
    assert coco_figures(*alike)["AP50"] == 1


def test_without_any_label_there_are_no_figures() -> None:
    assert coco_figures(NOTHING, TRUTH) == {}
    assert coco_by_kind(NOTHING, TRUTH) == {}


def test_answers_must_be_of_as_many_images() -> None:
    with pytest.raises(DataError, match="2 answers for 3 images"):
        coco_figures(TRUTH, TRUTH[:2])


def test_without_the_library_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DataError, match=r"pip install 'maskline\[coco\]'"):
        coco_figures(TRUTH, TRUTH)
