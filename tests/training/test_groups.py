"""What counts as an independent part: groups come before splits, and a copy is no other part."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.bundle import Bundle, load_bundle, save_bundle
from tests.conftest import normal_pixels, png, samples, write_set
from training.calibrate import measure, with_groups
from training.config import TrainConfig
from training.data import calibration_images, open_dataset, regroup
from training.errors import DataError, ResumeError
from training.groups import held_out, with_copies_together
from training.index import indexed
from training.loop import train
from training.pipeline import (
    Recalibration,
    Training,
    calibrate_folder,
    evaluate_model,
    train_model,
)
from training.progress import QUIET
from training.samples import Sample
from training.shards import find_shards, pack
from training.sweep import sweep


def short(config: TrainConfig) -> TrainConfig:
    return replace(config, optimiser=replace(config.optimiser, steps=2))


def bursts(root: Path, parts: int = 10, frames: int = 3) -> Path:
    root.mkdir()
    for part in range(parts):
        for frame in range(frames):
            picture = png(normal_pixels(100 * part + frame, (20, 24)))
            (root / f"part{part}_f{frame}.png").write_bytes(picture)
    return root


def sessions(dataset_split: list[Sample]) -> set[str]:
    return {sample.session for sample in dataset_split}


@pytest.mark.parametrize("again", [False, True])
def test_groups_are_made_before_the_split(tmp_path: Path, again: bool) -> None:
    pattern, root = r"(part\d+)_", bursts(tmp_path / "burst")
    dataset = regroup(open_dataset(root), pattern) if again else open_dataset(root, pattern)
    train, held = sessions(dataset.normal("train")), sessions(dataset.normal("validation"))
    assert (len(train), len(held)) == (8, 2)
    assert not train & held
    assert len(dataset.normal("validation")) == 6


def test_training_groups_before_it_splits(tmp_path: Path, tiny_config: TrainConfig) -> None:
    dataset = open_dataset(bursts(tmp_path / "burst"))
    how = Training(group_by=r"(part\d+)_")
    bundle = train_model(dataset, tmp_path / "m", short(tiny_config), how, progress=QUIET)
    assert bundle.card["training"]["sessions"] == 8
    assert bundle.calibration is not None
    assert bundle.calibration.images.groups == 2


def test_a_session_in_training_and_validation_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, {"train/good": 4, "validation/good": 4})
    assert len(open_dataset(tmp_path).samples) == 8
    with pytest.raises(DataError, match="'000' is in training and in validation"):
        open_dataset(tmp_path, r"(\d+)\.png")


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("folder", "all 6 images are in one folder: one group. Use --group-by image"),
        (r"\.(png)$", "are one group by --group-by"),
        ("session", "one group"),
        (r"(day\d)", "finds no group in 000.png"),
        ("(", "no regular expression"),
    ],
)
def test_fruitless_groups_are_said_at_once(tmp_path: Path, group_by: str, message: str) -> None:
    write_set(tmp_path, {".": 6})
    if group_by == "session":
        rows = [json.dumps({"image": f"{i:03d}.png", "session": "monday"}) for i in range(6)]
        (tmp_path / "m.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        calibration_images(tmp_path / "m.jsonl" if group_by == "session" else tmp_path, group_by)
    assert message in str(caught.value)


def test_too_few_to_train_and_to_calibrate_is_said_before_the_work(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    for folder, count in (("five", {".": 5}), ("one", {"train/good": 5, "validation/good": 1})):
        data = write_set(tmp_path / folder, count)
        with pytest.raises(DataError, match="a calibration needs at least 2"):
            train_model(open_dataset(data), tmp_path / "m", tiny_config, progress=QUIET)
    data = write_set(tmp_path / "eight", {".": 8})
    how = Training(group_by="folder")
    with pytest.raises(DataError, match="are in one folder"):
        train_model(open_dataset(data), tmp_path / "m", tiny_config, how, progress=QUIET)
    assert not (tmp_path / "m.run").exists()
    bundle = train_model(open_dataset(data), tmp_path / "m", short(tiny_config), progress=QUIET)
    assert bundle.calibration is not None


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from("abcdefg")), min_size=1, max_size=20
    )
)
def test_copies_and_sessions_are_closed_groups(parts: list[tuple[int, str]]) -> None:
    """No two groups share a session or a file; held out are whole groups."""
    before = [
        Sample(Path("x"), "good", "train", s, digest=str(d), drawn_into=("train", "validation"))
        for d, s in parts
    ]
    after = with_copies_together(before)
    for one, other in zip(before, after, strict=True):
        for other_before, other_after in zip(before, after, strict=True):
            if one.session == other_before.session or one.digest == other_before.digest:
                assert other.session == other_after.session
    drawn = held_out(after)
    assert not {s.session for s in drawn if s.split == "train"} & {
        s.session for s in drawn if s.split == "validation"
    }
    assert len(sessions(drawn)) == len(sessions(after))


def test_copies_are_one_part_wherever_parts_are_counted(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    for index in range(2):
        picture = png(normal_pixels(7000 + index))
        for copy, ending in enumerate(("png", "PNG", "bmp")):
            (tmp_path / f"{copy}_{index}.{ending}").write_bytes(picture)
    dataset = calibration_images(tmp_path)
    assert len(sessions(list(dataset.samples))) == 2
    assert any("exact copies" in note for note in dataset.listing.notes)
    for listed in (samples(tmp_path), with_groups(samples(tmp_path), "image")):
        assert len(set(measure(tiny_bundle.model, listed, progress=QUIET).groups)) == 2


def test_a_copy_is_never_on_both_sides(tmp_path: Path) -> None:
    write_set(tmp_path, {"train/good": 6, "validation/good": 4})
    shutil.copy(tmp_path / "train/good/000.png", tmp_path / "validation/good/renamed.PNG")
    dataset = open_dataset(tmp_path)
    assert len(dataset.normal("validation")) == 4
    assert dataset.listing.left_out == {"validation images that are copies of training images": 1}
    flat = write_set(tmp_path / "flat", {".": 10})
    for index in range(10):
        shutil.copy(flat / f"{index:03d}.png", flat / f"z{index}.jpg")
    dataset = open_dataset(flat)
    assert len(dataset.normal("validation")) == 4
    assert not {s.digest for s in dataset.normal("train")} & {
        s.digest for s in dataset.normal("validation")
    }


def test_other_images_of_the_same_names_are_not_gone_on_with(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config, run = short(tiny_config), tmp_path / "run"
    one = write_set(tmp_path / "one", {".": 6})
    other = write_set(tmp_path / "other", {".": 6}, first=50)
    train(open_dataset(one).samples, config, run, progress=QUIET)
    train(open_dataset(one).samples, config, run, resume=True, progress=QUIET)
    moved = shutil.copytree(one, tmp_path / "moved")
    train(open_dataset(moved).samples, config, run, resume=True, progress=QUIET)
    with pytest.raises(ResumeError, match="other images"):
        train(open_dataset(other).samples, config, run, resume=True, progress=QUIET)
    (moved / "000.png").rename(moved / "9.png")
    with pytest.raises(ResumeError, match="other images"):
        train(open_dataset(moved).samples, config, run, resume=True, progress=QUIET)


def test_other_files_of_the_same_names_are_another_listing(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", {"lot": 3})
    listing = indexed([data], tmp_path / "run")
    before = listing.digest
    assert indexed([data], tmp_path / "run").digest == before
    write_set(tmp_path / "data", {"lot": 3}, first=70)
    assert indexed([data], tmp_path / "run").digest != before
    shards = []
    for first in (0, 70):
        write_set(tmp_path / "data", {"lot": 3}, first=first)
        pack(sorted((data / "lot").iterdir()), tmp_path / f"shards{first}", 10)
        shards.append(find_shards([tmp_path / f"shards{first}"]))
    assert shards[0] is not None
    assert shards[1] is not None
    assert shards[0].digest != shards[1].digest


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: TrainConfig
) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("seen")
    data = write_set(root / "data", {"OK": 20})
    for index in range(3):
        (data / "NG").mkdir(exist_ok=True)
        (data / f"NG/{index}.png").write_bytes(png(255 - normal_pixels(900 + index)))
    train_model(open_dataset(data), root / "m", short(tiny_config), progress=QUIET)
    return root / "m", data


def test_a_model_is_not_calibrated_on_what_it_was_trained_on(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = trained
    used = [sample.path for sample in open_dataset(data).normal("train")]
    assert len(load_bundle(model).card["images_seen"]["trained"]) == 16 * len(used)
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for index, path in enumerate(used):
        shutil.copy(path, renamed / f"week47_{index}.PNG")
    shutil.copytree(model, tmp_path / "m")
    images = calibration_images(renamed).samples
    with pytest.raises(DataError, match=f"trained on {len(used)} of these {len(used)} images"):
        calibrate_folder(tmp_path / "m", images, Recalibration(), progress=QUIET)
    for index in range(4):
        (renamed / f"new{index}.png").write_bytes(png(normal_pixels(8000 + index)))
    images = calibration_images(renamed).samples
    done = calibrate_folder(tmp_path / "m", images, Recalibration(), progress=QUIET)
    assert done.calibration.images.groups == 4
    assert f"left out: {len(used)} of {len(used) + 4} images" in caplog.text


def test_a_set_without_splits_is_tested_on_what_the_model_has_not_seen(
    trained: tuple[Path, Path], tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = trained
    figures, _ = evaluate_model(model, open_dataset(data), progress=QUIET)
    assert figures["images"] == 4 + 3
    assert figures["test_images_seen_before"] == 0
    assert "left out: 16 images that the model was trained or calibrated on" in caplog.text
    other, _ = evaluate_model(tiny_folder, open_dataset(data), progress=QUIET)
    assert other["images"] == 20 + 3


def test_testing_on_what_was_trained_on_is_said(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = trained
    shutil.copytree(data / "NG", tmp_path / "test/NG")
    shutil.copytree(data / "OK", tmp_path / "test/good")
    with caplog.at_level(logging.WARNING):
        figures, _ = evaluate_model(model, open_dataset(tmp_path), progress=QUIET)
    assert figures["test_images_seen_before"] == 16
    assert "figures flatter it" in caplog.text


@pytest.mark.parametrize("kinds", [("good",), ("NG",), ()])
def test_a_test_of_one_kind_is_refused_before_any_model_is_read(
    tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    write_set(tmp_path, {"train/good": 5} | {f"test/{kind}": 2 for kind in kinds})
    with pytest.raises(DataError, match=r"no test images|needs both normal"):
        evaluate_model(tmp_path / "no model", open_dataset(tmp_path), progress=QUIET)


def test_a_mask_of_another_size_is_refused_before_any_model_is_read(
    tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "set")
    (data / "ground_truth/blob/005_mask.png").write_bytes(png(normal_pixels(1, (128, 96))[..., 0]))
    with pytest.raises(DataError, match=r"005_mask.png is 96×128 px, its image 128×96 px"):
        evaluate_model(tmp_path / "no model", open_dataset(data), progress=QUIET)


def test_pixel_figures_say_of_how_many_images_they_are(
    tiny_data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "set")
    for number in range(4):
        (data / f"ground_truth/blob/{number:03d}_mask.png").unlink()
    figures, _ = evaluate_model(tiny_folder, open_dataset(data), progress=QUIET)
    assert figures["pixel_images"] == 8 + 2
    assert figures["pixel_images_without_mask"] == 4


def test_a_card_of_before_says_nothing(
    tiny_bundle: Bundle, tiny_data: Path, tmp_path: Path
) -> None:
    save_bundle(tiny_bundle, tmp_path / "m", "v1")
    images = calibration_images(tiny_data / "train/good").samples
    done = calibrate_folder(tmp_path / "m", images, Recalibration(), progress=QUIET)
    assert done.calibration.images.groups == 24


def test_a_folder_for_each_lot_is_a_group(tmp_path: Path) -> None:
    """The README's own example."""
    write_set(tmp_path, {"lot1": 3, "lot2": 2, "lot3/late": 2})
    assert sessions(list(calibration_images(tmp_path, "folder").samples)) == {
        "lot1",
        "lot2",
        "lot3/late",
    }


def test_a_model_to_start_from_has_seen_its_images_too(
    trained: tuple[Path, Path], tiny_config: TrainConfig, tmp_path: Path
) -> None:
    model, data = trained
    used = [sample.path for sample in open_dataset(data).normal("train")]
    write_set(tmp_path / "more", {"train/good": 4, "validation/good": 3}, first=300)
    for index, path in enumerate(used):
        shutil.copy(path, tmp_path / f"more/validation/good/old{index}.png")
    dataset, how = open_dataset(tmp_path / "more"), Training(init=model)
    bundle = train_model(dataset, tmp_path / "m", short(tiny_config), how, progress=QUIET)
    assert bundle.calibration is not None
    assert bundle.calibration.images.groups == 3
    assert len(bundle.card["images_seen"]["trained"]) == 16 * (len(used) + 4)


def test_a_sweep_of_too_few_images_ends_before_its_first_trial(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    data = write_set(tmp_path / "data", {".": 5})
    with pytest.raises(DataError, match="too few images to train and to calibrate"):
        sweep(open_dataset(data), tmp_path / "out", "sweep", trials=1, progress=QUIET)
    assert not (tmp_path / "out").exists()


def test_copies_in_the_test_split_join_no_other_groups(tmp_path: Path) -> None:
    write_set(tmp_path, {"train/good": 3, "validation/good": 3, "test/good": 1})
    rows = []
    for split in ("train", "validation"):
        shutil.copy(tmp_path / split / "good/000.png", tmp_path / f"test/good/{split}.png")
    for path in sorted(tmp_path.glob("*/good/*.png")):
        split = path.parent.parent.name
        session = {"session": "lot"} if split == "test" else {}
        rows.append(json.dumps({"image": str(path), "split": split} | session))
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    dataset = regroup(open_dataset(tmp_path / "m.jsonl"), "session")
    assert len(sessions(dataset.normal("train"))) == 3
    assert len(sessions(dataset.normal("validation"))) == 3
    assert any("2 test images are copies of images" in note for note in dataset.listing.notes)
