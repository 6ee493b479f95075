"""Boxes and masks go through the frame: saved, loaded, asked about images, and not exported."""

from pathlib import Path
from typing import Any

import pytest

from anomaly.errors import ExportFailed
from anomaly.types import RgbImage
from supervised.bundle import SupervisedBundle, load_supervised, save_supervised
from supervised.graph import export_graph
from supervised.masks import on_source
from supervised.predictor import Predictor
from supervised.tasks import SupervisedConfig, build_network
from supervised.types import TaskName
from tests.supervised.test_pyramid import encoder

KINDS = ("dent", "scratch")
HEADS: dict[TaskName, dict[str, Any]] = {
    "detection": {"channels": 16, "head_width": 32, "score_floor": 0.0, "at_most": 5},
    "segmentation": {"channels": 16},
}


def bundle(task: TaskName) -> SupervisedBundle:
    network = encoder()
    config = SupervisedConfig(task, KINDS, network.config, HEADS[task])
    return SupervisedBundle("parts", config, build_network(config, network).eval(), {})


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_folder_answers_as_the_network_did(
    task: TaskName, tmp_path: Path, image: RgbImage
) -> None:
    before = bundle(task)
    save_supervised(before, tmp_path / "parts", "v1")
    loaded = load_supervised(tmp_path / "parts")
    [first], [second] = Predictor(before).predict([image]), Predictor(loaded).predict([image])
    assert first.boxes == second.boxes
    if task == "detection":
        assert 0 < len(second.boxes) <= 5
    else:
        assert first.mask is not None
        assert second.mask is not None
        assert (first.mask == second.mask).all()
        assert on_source(second).shape == image.size


def test_a_detector_has_no_graph_and_says_so() -> None:
    with pytest.raises(ExportFailed, match="no graph"):
        export_graph(bundle("detection").network)


def test_a_segmenter_has_a_graph_that_computes_the_same() -> None:
    assert export_graph(bundle("segmentation").network)
