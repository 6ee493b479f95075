"""Labels of a few parts: what the head learns, what calibrates it, and what is refused."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.bundle import Bundle, load_bundle, save_bundle
from anomaly.calibration import CalibrationSettings
from anomaly.errors import ModelCorrupt, ModelUncalibrated
from anomaly.onnx_model import OnnxModel
from anomaly.preprocess import content_seed, preprocess
from anomaly.runtime import detector_of
from anomaly.types import RgbImage
from tests.conftest import normal_pixels, planted, png, samples, write_set
from training.data import listed
from training.errors import DataError
from training.labelled import (
    REACHES,
    Cells,
    Rule,
    choose_penalty,
    draw_cells,
    fit_rule,
    labelled_parts,
    map_cells,
    seen_cells,
    with_head,
)
from training.labelling import Labelling, _without_parts, label_folder, silent
from training.pipeline import with_graph
from training.progress import QUIET
from training.samples import Sample
from training.seen import remember_training


@pytest.fixture(scope="module")
def known(tiny_bundle: Bundle, tiny_data: Path) -> Bundle:
    """The tiny model, whose card says what it was trained on."""
    return remember_training(tiny_bundle, samples(tiny_data / "train/good"))


def spotted(seed: int, x: int, y: int) -> np.ndarray:
    """A good part with a bright square, which a linear rule on pixels can tell."""
    pixels = normal_pixels(seed)
    pixels[y - 10 : y + 10, x - 10 : x + 10] = 255
    return pixels


@pytest.fixture(scope="module")
def marked_set(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set's good parts, and six with a bright square and its mask."""
    root = tmp_path_factory.mktemp("marked") / "set"
    for part in ("train", "validation", "test/good"):
        shutil.copytree(tiny_data / part, root / part)
    for part in ("test/blob", "ground_truth/blob"):
        (root / part).mkdir(parents=True)
    for index in range(6):
        x, y = 30 + 10 * index, 30 + 6 * index
        mask = np.zeros((96, 128), np.uint8)
        mask[y - 10 : y + 10, x - 10 : x + 10] = 255
        name = f"{index:03d}"
        (root / "test/blob" / f"{name}.png").write_bytes(png(spotted(900 + index, x, y)))
        (root / "ground_truth/blob" / f"{name}_mask.png").write_bytes(png(mask))
    return root


@pytest.fixture(scope="module")
def folder(known: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("to-label") / "tiny"
    save_bundle(known, place, "v1")
    return place


@pytest.fixture(scope="module")
def labelled(folder: Path, marked_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("labelled") / "tiny"
    label_folder(folder, marked_set, place, progress=QUIET)
    return load_bundle(place)


def cells_of(count: int, seed: int) -> Cells:
    """Cells of ten parts whose first input says whether they are marked."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    marked = inputs[:, 0] + 0.1 * torch.randn(count, generator=generator) > 1
    return Cells(inputs, marked, torch.arange(count) % 10)


def test_a_rule_finds_what_is_marked_whatever_the_inputs_units() -> None:
    cells = cells_of(600, 0)
    rule = fit_rule(cells, 1e-3)
    unseen = cells_of(300, 1)
    marked, free = (rule(unseen.inputs[rows]) for rows in (unseen.marked, ~unseen.marked))
    assert (marked[:, None] > free).float().mean() > 0.95
    assert float((free > 0).float().mean()) < 0.02
    units = torch.tensor([1000.0, 1, 1, 0.01, 1, 1])
    other = fit_rule(replace(cells, inputs=cells.inputs * units + 5), 1e-3)
    torch.testing.assert_close(
        other(unseen.inputs * units + 5), rule(unseen.inputs), atol=0.1, rtol=0.05
    )


def test_good_parts_that_do_not_teach_say_how_high_they_reach() -> None:
    cells, others = cells_of(600, 0), cells_of(2000, 5)
    higher = Cells(others.inputs + 1, others.marked & False, torch.full((2000,), REACHES))
    rule, raised = fit_rule(cells, 1e-3), fit_rule(Cells.joined([cells, higher]), 1e-3)
    torch.testing.assert_close(raised.weights, rule.weights)
    assert raised.bias < rule.bias
    assert float((raised(higher.inputs) > 0).float().mean()) <= 0.002


def test_what_is_marked_nowhere_or_everywhere_is_refused() -> None:
    cells = cells_of(100, 0)
    for marked in (torch.zeros(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)):
        with pytest.raises(DataError, match="around the defects alone"):
            fit_rule(replace(cells, marked=marked), 1e-2)


def test_a_penalty_is_chosen_by_parts_that_are_left_out() -> None:
    cells = cells_of(400, 2)
    misleading = replace(cells, marked=torch.rand(400) < 0.2)
    assert choose_penalty(cells) in (1e-1, 1e-2, 1e-3)
    assert choose_penalty(misleading) in (1e-1, 1e-2, 1e-3)
    lone = replace(cells, group=torch.zeros(400, dtype=torch.int64))
    assert choose_penalty(lone) == 1e-1  # nothing to leave out: the most cautious


def test_cells_right_around_a_mask_are_half_of_the_normal_ones() -> None:
    share = torch.zeros(20, 20)
    share[8:12, 8:12] = 1
    share[7, 8:12] = 0.1  # touched: neither
    cells = draw_cells(torch.arange(400.0).view(400, 1), share, 3, np.random.default_rng(0))
    place = cells.inputs[:, 0].long()
    square = {20 * row + column for row in range(8, 12) for column in range(8, 12)}
    assert set(place[cells.marked].tolist()) == square
    free = place[~cells.marked]
    assert not set(free.tolist()) & {20 * 7 + c for c in range(8, 12)}
    row, column = free // 20, free % 20
    beside = (row >= 6) & (row <= 12) & (column >= 7) & (column <= 12)
    assert len(free) == 60
    assert 20 <= int(beside.sum()) <= 30
    assert (cells.group == 3).all()


def test_the_head_gives_the_rule_s_logits(tiny_bundle: Bundle) -> None:
    model = tiny_bundle.model
    images = [RgbImage(normal_pixels(60)), RgbImage(planted(normal_pixels(61), 50, 40, 10))]
    generator = torch.Generator().manual_seed(1)
    width = map_cells(model, images).shape[-1]
    rule = Rule(torch.randn(width, generator=generator), 0.5, 1e-2)
    pixels, _ = preprocess(images, model.config.preprocess)
    seeds = [content_seed(canvas) for canvas in pixels]
    evidence = with_head(model, rule)(pixels, seeds).values[:, :, -1]  # (B, R, L)
    tokens = model.target(pixels)
    for repeat, predicted in enumerate(model.predict(tokens, seeds).unbind(dim=1)):
        expected = rule(seen_cells(model, tokens, predicted))
        torch.testing.assert_close(evidence[:, repeat], expected, atol=1e-4, rtol=1e-4)


def test_labels_become_a_family_that_marks_such_defects(
    labelled: Bundle, folder: Path, marked_set: Path
) -> None:
    before = load_bundle(folder)
    assert labelled.model.names == (*before.model.names, "labelled.cells")
    assert labelled.card["labelled"]["masks"] == {"blob": 6}
    assert labelled.calibration is not None
    assert before.calibration is not None
    assert labelled.calibration.false_alarm_rate == before.calibration.false_alarm_rate
    assert float(labelled.calibration.weights[-1]) > 0
    images = [RgbImage(spotted(3000 + i, 60, 50)) for i in range(4)]
    pixels, _ = preprocess(images, labelled.model.config.preprocess)
    cells = labelled.model(pixels, [1, 2, 3, 4]).mean[:, -1]
    good = [RgbImage(normal_pixels(3100 + i)) for i in range(4)]
    normal, _ = preprocess(good, labelled.model.config.preprocess)
    of_good = labelled.model(normal, [1, 2, 3, 4]).mean[:, -1]
    assert cells.amax(dim=1).min() > of_good.amax(dim=1).max()


def test_the_stated_rate_holds_on_other_good_parts(labelled: Bundle) -> None:
    assert labelled.calibration is not None
    detector = detector_of(labelled)
    detections = detector.detect([RgbImage(normal_pixels(4000 + i)) for i in range(60)])
    rejected = sum(detection.is_anomalous for detection in detections)
    expected = labelled.calibration.images.expected(labelled.calibration.false_alarm_rate, 60)
    assert rejected <= expected.high


def test_the_other_weights_stay_as_they_were(labelled: Bundle, known: Bundle) -> None:
    state = labelled.model.state_dict()
    for name, tensor in known.model.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_labelling_again_takes_the_place_of_earlier_labels(
    labelled: Bundle, marked_set: Path, tmp_path: Path
) -> None:
    place = tmp_path / "again"
    save_bundle(labelled, place, "v2")
    again = label_folder(place, marked_set, progress=QUIET).bundle
    assert again.model.names == labelled.model.names
    assert again.version != "v2"
    assert load_bundle(place).version == again.version
    for mine, theirs in zip(
        again.model.state_dict().values(), labelled.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_few_masks_are_refused_with_the_reason(
    folder: Path, marked_set: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    for part in ("test/blob", "ground_truth/blob"):
        (few / part).mkdir(parents=True)
        for file in sorted((marked_set / part).iterdir())[:4]:
            (few / part / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"4 defective images with a mask in .*want 5"):
        label_folder(folder, marked_set, how=Labelling(masks=few), progress=QUIET)
    assert load_bundle(folder).version == "v1"


def test_kinds_with_few_masks_are_named(
    marked_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, count in (("blob", 5), ("speck", 1)):
        for part in (f"test/{kind}", f"ground_truth/{kind}"):
            (tmp_path / part).mkdir(parents=True)
            source = part.replace("speck", "blob")
            for file in sorted((marked_set / source).iterdir())[-count:]:
                (tmp_path / part / file.name).write_bytes(file.read_bytes())
    with caplog.at_level(logging.WARNING):
        marked = labelled_parts(listed(marked_set), tmp_path, None)
    assert len(marked) == 6
    assert "fewer than 5 masks of speck (1)" in caplog.text


def test_an_uncalibrated_model_is_refused(known: Bundle, marked_set: Path, tmp_path: Path) -> None:
    save_bundle(replace(known, calibration=None), tmp_path / "m", "v1")
    with pytest.raises(ModelUncalibrated, match="calibrate the model first"):
        label_folder(tmp_path / "m", marked_set, progress=QUIET)


def test_good_parts_that_the_model_has_not_seen_do_not_teach(
    tiny_bundle: Bundle, marked_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_bundle(tiny_bundle, tmp_path / "m", "v1")  # its card says nothing
    data = write_set(tmp_path / "fresh", {"train/good": 4, "validation/good": 20}, first=7000)
    with caplog.at_level(logging.WARNING):
        done = label_folder(tmp_path / "m", data, how=Labelling(masks=marked_set), progress=QUIET)
    assert "from the labelled images alone" in caplog.text
    assert done.bundle.calibration is not None
    assert len(done.bundle.calibration.images.scores) == 20


def test_a_camera_s_calibration_stays_and_does_not_hear_the_labels(
    known: Bundle, marked_set: Path, tmp_path: Path
) -> None:
    assert known.calibration is not None
    save_bundle(replace(known, cameras={"north": known.calibration}), tmp_path / "m", "v1")
    done = label_folder(tmp_path / "m", marked_set, progress=QUIET).bundle
    camera = load_bundle(tmp_path / "m").cameras["north"]
    assert camera.threshold == known.calibration.threshold
    image = RgbImage(planted(normal_pixels(1), 50, 50, 8))
    before = detector_of(known).detect([image])[0]
    after = detector_of(done).detect([image], ["north"])[0]
    assert after.pred_score == pytest.approx(before.pred_score, rel=1e-5)
    assert silent(camera, len(camera.weights)) is camera


def test_a_threshold_by_hand_gives_way(
    known: Bundle, marked_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert known.calibration is not None
    by_hand = replace(known.calibration, given=3.0)
    save_bundle(replace(known, calibration=by_hand), tmp_path / "m", "v1")
    with caplog.at_level(logging.WARNING):
        done = label_folder(tmp_path / "m", marked_set, progress=QUIET)
    assert "was set by hand" in caplog.text
    assert done.bundle.calibration is not None
    assert done.bundle.calibration.given is None
    assert done.bundle.calibration.roi is None
    assert CalibrationSettings().threshold is None


def test_good_pictures_of_a_labelled_part_do_not_calibrate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    normals = [Sample(Path(f"{i}.png"), "good", "validation", f"tile{i // 2}") for i in range(8)]
    marked = [Sample(Path("bad.png"), "crack", "test", "tile1")]
    with caplog.at_level(logging.WARNING):
        remaining = _without_parts(normals, marked, None)
    assert "left out: 2 good pictures of parts that are labelled" in caplog.text
    assert {sample.session for sample in remaining} == {"tile0", "tile2", "tile3"}
    with pytest.raises(DataError, match="collect other ones"):
        _without_parts(normals[2:4], marked, None)
    with pytest.raises(DataError, match="at least 2"):
        _without_parts(normals[:4], marked, None)


def test_the_graph_is_made_anew_and_gives_the_labels_logits(labelled: Bundle) -> None:
    exported = with_graph(labelled, "always")
    assert exported.graph is not None
    image = RgbImage(spotted(5, 60, 50))
    pixels, _ = preprocess([image], labelled.model.config.preprocess)
    seeds = [content_seed(canvas) for canvas in pixels]
    by_graph = OnnxModel(exported.model, exported.graph)(pixels, seeds)
    by_torch = labelled.model(pixels, seeds)
    assert by_graph.names[-1] == "labelled.cells"
    torch.testing.assert_close(by_graph.values, by_torch.values, atol=1e-3, rtol=1e-3)


def test_a_graph_of_the_model_without_labels_is_not_believed(
    labelled: Bundle, folder: Path, tmp_path: Path
) -> None:
    earlier = with_graph(load_bundle(folder), "always").graph
    save_bundle(replace(labelled, graph=earlier), tmp_path / "m", "v1")
    with pytest.raises(ModelCorrupt, match=r"does not fit|cannot run"):
        load_bundle(tmp_path / "m")
