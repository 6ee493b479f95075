"""Every common layout is read or named in the error; nothing is left out without a word."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import calibration_images, open_dataset, training_paths
from training.errors import DataError
from training.samples import Dataset, count_by_split
from training.scoring import expand

SIZE = (20, 24)


def draw(path: Path, *, black: bool = False, size: tuple[int, int] = SIZE) -> Path:
    """Write a picture that no other one equals, or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if black:
        pixels = np.zeros(size, np.uint8)
    else:
        pixels = np.random.default_rng(zlib.crc32(str(path).encode("utf-8", "replace"))).integers(
            1, 255, size, np.uint8
        )
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def draw_all(folder: Path, count: int, ending: str = ".png") -> None:
    for index in range(count):
        draw(folder / f"{index:03d}{ending}")


def counts(dataset: Dataset) -> dict[str, int]:
    return count_by_split(dataset.samples)


def masks_of(dataset: Dataset) -> list[Path | None]:
    return [s.mask for s in dataset.select("test") if not s.is_normal]


def mvtec(root: Path, good: str = "good", mask: str = "{}_mask.png") -> Path:
    for folder, count in ((f"train/{good}", 10), (f"test/{good}", 3), ("test/scratch", 4)):
        draw_all(root / folder, count)
    for index in range(4):
        draw(root / "ground_truth/scratch" / mask.format(f"{index:03d}"))
    return root


GOOD = [
    "good",
    "ok",
    "OK",
    "Ok",
    "normal",
    "Normal",
    "GOOD",
    "defect-free",
    "non_defective",
    "i.O.",
    "Good Parts",
]


@pytest.mark.parametrize("good", [*GOOD, "0"])
def test_good_parts_under_any_name_are_good(tmp_path: Path, good: str) -> None:
    dataset = open_dataset(mvtec(tmp_path, good))
    assert counts(dataset) == {
        "train/good": 8,
        "validation/good": 2,
        "test/good": 3,
        "test/scratch": 4,
    }
    assert all(masks_of(dataset))
    lines = [json.dumps({"image": f"train/{good}/000.png", "label": good, "split": "test"})]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    assert open_dataset(tmp_path / "m.jsonl").samples[0].is_normal


def test_two_names_for_good_parts_are_one_kind_and_said(tmp_path: Path) -> None:
    mvtec(tmp_path)
    draw_all(tmp_path / "test/OK", 2)
    dataset = open_dataset(tmp_path)
    assert counts(dataset)["test/good"] == 5
    assert any("OK" in note for note in dataset.listing.notes)


@pytest.mark.parametrize("name", ["positive", "NEG", "True"])
def test_names_that_may_mean_either_are_refused(tmp_path: Path, name: str) -> None:
    mvtec(tmp_path)
    draw_all(tmp_path / "test" / name, 1)
    with pytest.raises(DataError, match="some use for good parts and others for defects"):
        open_dataset(tmp_path)


def test_btad_is_read(tmp_path: Path) -> None:
    for folder, count in (("train/ok", 10), ("test/ok", 2), ("test/ko", 3)):
        draw_all(tmp_path / "01" / folder, count, ".bmp")
    draw_all(tmp_path / "01/ground_truth/ko", 3)
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {"train/good": 8, "validation/good": 2, "test/good": 2, "test/ko": 3}
    assert all(masks_of(dataset))


def test_visa_is_read(tmp_path: Path) -> None:
    draw_all(tmp_path / "candle/Data/Images/Normal", 20, ".JPG")
    draw_all(tmp_path / "candle/Data/Images/Anomaly", 4, ".JPG")
    draw_all(tmp_path / "candle/Data/Masks/Anomaly", 4)
    (tmp_path / "candle/image_anno.csv").write_text("image,label,mask\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {
        "train/good": 13,
        "validation/good": 3,
        "test/good": 4,
        "test/Anomaly": 4,
    }
    assert all(masks_of(dataset))
    assert dataset.listing.left_out == {".csv files": 1}


@pytest.mark.parametrize("ending", ["_GT.png", "_label.bmp"])
def test_masks_beside_their_images_are_read(tmp_path: Path, ending: str) -> None:
    """Kolektor: the black mask is of a good part."""
    for index in range(12):
        draw(tmp_path / f"kos{index // 4}/Part{index}.png")
        draw(tmp_path / f"kos{index // 4}/Part{index}{ending}", black=index % 3 != 0)
    dataset = open_dataset(tmp_path)
    assert len([s for s in dataset.samples if s.is_normal]) == 8
    assert len(masks_of(dataset)) == 4
    assert all(masks_of(dataset))
    draw(tmp_path / "kos0/Part99.png")
    with pytest.raises(DataError, match=r"none for Part99\.png"):
        open_dataset(tmp_path)


def test_splits_with_masks_beside_their_images_are_read(tmp_path: Path) -> None:
    """KolektorSDD2: defects in the training split are never trained on."""
    for split in ("train", "test"):
        for index in range(10):
            draw(tmp_path / split / f"{index}.png")
            draw(tmp_path / split / f"{index}_GT.png", black=index > 2)
    dataset = open_dataset(tmp_path)
    assert len(dataset.normal("train")) + len(dataset.normal("validation")) == 7
    assert counts(dataset)["test/defect"] == 3


@pytest.mark.parametrize("names", [("OK", "NG"), ("good", "defect"), ("normal", "abnormal")])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_folders_of_good_and_bad_are_read(
    tmp_path: Path, names: tuple[str, str], case: Callable[[str], str]
) -> None:
    good, bad = map(case, names)
    draw_all(tmp_path / good, 20)
    draw_all(tmp_path / bad / "day1", 3)
    dataset = open_dataset(tmp_path)
    assert {s.path.parent.name for s in dataset.normal("train")} == {good}
    assert counts(dataset) == {
        "train/good": 13,
        "validation/good": 3,
        "test/good": 4,
        f"test/{bad}": 3,
    }
    assert len(calibration_images(tmp_path).samples) == 20


def test_bad_parts_without_good_ones_are_refused(tmp_path: Path) -> None:
    for name in ("NG", "monday"):
        draw_all(tmp_path / name, 2)
    with pytest.raises(DataError, match="unclear what monday hold"):
        open_dataset(tmp_path)


def test_defects_in_training_are_not_taken_for_lots(tmp_path: Path) -> None:
    draw_all(tmp_path / "train/lot1", 5)
    draw_all(tmp_path / "test/good", 2)
    assert len(open_dataset(tmp_path).normal("train")) == 4
    for split in ("train", "test"):
        draw_all(tmp_path / split / "scratch", 2)
    with pytest.raises(DataError, match="scratch/ is a kind of defect in test/"):
        open_dataset(tmp_path)


def test_a_test_split_alone_is_read(tmp_path: Path) -> None:
    mvtec(tmp_path)
    for index in range(10):
        (tmp_path / f"train/good/{index:03d}.png").unlink()
    assert counts(open_dataset(tmp_path)) == {"test/good": 3, "test/scratch": 4}
    rows = [
        json.dumps({"image": f"test/{k}/{i:03d}.png", "label": k, "split": "test"})
        for k, count in (("good", 3), ("scratch", 4))
        for i in range(count)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    assert counts(open_dataset(tmp_path / "test.jsonl")) == {"test/good": 3, "test/scratch": 4}


def test_folders_below_are_read_and_said(tmp_path: Path) -> None:
    draw_all(tmp_path, 4)
    draw_all(tmp_path / "mon/late", 4)
    draw_all(tmp_path / "tue", 4)
    assert len(calibration_images(tmp_path).samples) == 12
    assert "in 3 folders" in open_dataset(tmp_path).listing.summary()
    assert len(list(expand([tmp_path]))) == 12


def test_what_is_never_an_image_is_left_out_and_counted(tmp_path: Path) -> None:
    draw_all(tmp_path, 5)
    for name in ("._000.png", ".hidden.png", "Thumbs.db", "notes.txt", "a.webp", "b.HEIC"):
        (tmp_path / name).write_bytes(b"x")
    draw_all(tmp_path / "@eaDir/000.png", 1)
    draw_all(tmp_path / "__MACOSX", 1)
    draw_all(tmp_path / ".cache", 1)
    listing = open_dataset(tmp_path).listing
    assert listing.left_out == {
        "hidden files": 3,
        "system files": 3,
        ".txt files": 1,
        ".webp (images of a kind that is not read)": 1,
        ".heic (images of a kind that is not read)": 1,
    }
    assert sum(listing.taken.values()) == 5
    assert len(list(expand([tmp_path]))) == 5
    assert listing.as_dict()["left_out"] == listing.left_out


def test_links_are_followed_once(tmp_path: Path) -> None:
    draw_all(tmp_path / "elsewhere", 3)
    draw_all(tmp_path / "set", 3)
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/linked/round").symlink_to(tmp_path / "set")
    (tmp_path / "set/self").symlink_to(tmp_path / "set/self")
    (tmp_path / "set/x.png").symlink_to(tmp_path / "elsewhere/000.png")
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset.samples) == 7
    assert dataset.listing.left_out["folders reached twice by links"] == 1
    assert len({s.session for s in dataset.samples}) == 6  # the linked image is a copy


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    draw_all(tmp_path, 5)
    (tmp_path / "000.png").rename(tmp_path / os.fsdecode(b"Gr\xf6\xdfe.png"))
    draw(tmp_path / os.fsdecode(b"\xff") / "a.png")
    dataset = open_dataset(tmp_path)
    assert len(dataset.samples) == 6
    dataset.listing.summary().encode()


@pytest.mark.parametrize(
    ("annotation", "images"),
    [
        ("instances.json", "."),
        ("train/_annotations.coco.json", "train"),
        ("annotations/instances_train.json", "images"),
        ("labels/000.txt", "images"),
        ("train/labels/000.txt", "train/images"),
    ],
)
def test_annotations_that_are_not_read_are_named(
    tmp_path: Path, annotation: str, images: str
) -> None:
    draw_all(tmp_path / images, 8)
    (tmp_path / annotation).parent.mkdir(exist_ok=True)
    (tmp_path / annotation).write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="not read, and nothing says which of the images are good"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="write a manifest"):
        list(training_paths(tmp_path))


def test_masks_beside_images_of_no_kind_are_named(tmp_path: Path) -> None:
    for name, images, masks in (("a", "images", "masks"), ("dagm", "Train", "Train/Label")):
        draw_all(tmp_path / name / images, 8)
        draw_all(tmp_path / name / masks, 8)
        with pytest.raises(DataError, match="looks like masks of the images"):
            open_dataset(tmp_path / name)


def test_a_folder_of_sets_is_its_sets(tmp_path: Path) -> None:
    mvtec(tmp_path / "mvtec/nut")
    draw_all(tmp_path / "btad/01/train/ok", 10)
    draw_all(tmp_path / "btad/01/test/ko", 2)
    draw_all(tmp_path / "btad/01/ground_truth/ko", 2)
    draw_all(tmp_path / "pairs/NG", 2)
    draw_all(tmp_path / "pairs/OK", 10)
    draw_all(tmp_path / "loose/lot1", 3)
    normal = {f"mvtec/nut/train/good/{i:03d}.png" for i in range(10)}
    normal |= {f"btad/01/train/ok/{i:03d}.png" for i in range(10)}
    normal |= {f"pairs/OK/{i:03d}.png" for i in range(10)}
    normal |= {f"loose/lot1/{i:03d}.png" for i in range(3)}
    for names in (
        [s.name for s in open_dataset(tmp_path).normal("train")],
        [p.relative_to(tmp_path).as_posix() for p in training_paths(tmp_path)],
    ):
        assert len(names) > 20
        assert set(names) <= normal
    assert not any("ground_truth" in str(path) for path in expand([tmp_path]))


KINDS = st.sampled_from(["good", "OK", "normal", "ko", "NG"])
TREES = st.sets(
    st.tuples(
        st.sampled_from(["", "a/", "a/b/"]), st.sampled_from(["train", "test", "val"]), KINDS
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(tree=TREES)
def test_every_image_is_taken_or_counted_and_no_defect_is_normal(
    tree: set[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for above, split, kind in tree:
        draw_all(root / above / split / kind, 1)
    try:
        dataset = open_dataset(root)
    except DataError:
        return
    left_out = sum(n for k, n in dataset.listing.left_out.items() if k.startswith("images"))
    assert len(dataset.samples) + left_out == len(tree)
    normal = {s.path.parent.name for s in dataset.samples if s.is_normal}
    assert not normal & {"ko", "NG"}
    assert not any(p.parent.name in ("ko", "NG") for p in training_paths(root))


def test_what_may_be_masks_is_scored_rather_than_hidden(tmp_path: Path) -> None:
    draw_all(tmp_path / "labels", 2)
    draw_all(tmp_path / "boxes", 2)
    draw_all(tmp_path / "ground_truth", 2)
    assert len(list(expand([tmp_path]))) == 4


def test_images_left_out_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_all(mvtec(tmp_path) / "spare", 2)
    open_dataset(tmp_path)
    [record] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "2 images outside of train, validation, test" in record.getMessage()


def test_aligned_pictures_and_their_masks_are_told_apart(tmp_path: Path) -> None:
    """MVTec 3D: every kind has rgb/ and gt/."""
    for folder in ("train/good/rgb", "test/good/rgb", "test/hole/rgb", "test/hole/gt"):
        draw_all(tmp_path / folder, 5)
    draw_all(tmp_path / "test/good/gt", 5)
    dataset = open_dataset(tmp_path)
    assert {s.path.parent.name for s in dataset.samples} == {"rgb"}
    assert dataset.listing.left_out == {"images in gt/": 10}
