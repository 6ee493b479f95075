from pathlib import Path

import numpy as np
import pytest

from anomaly.errors import OutputRefused
from tests.training.annotations.conftest import SIZE, block, image, masked, ring
from training.annotations import labelme
from training.annotations.formats import FORMATS, Conversion, convert, read_labels
from training.annotations.labelled import Instance, LabelSet
from training.annotations.lookout import union_of
from training.annotations.summary import odd, table
from training.annotations.writing import write_folder, write_json
from training.errors import DataError, NotWritten

BOXED = Instance("pore", (2.0, 3.0, 4.0, 5.0))


def stored(labels: LabelSet, target: Path, name: str = "coco") -> Path:
    source = labels.images[0].path.parent
    write_folder(FORMATS[name].write, labels, target, source=source, force=False)
    return target


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_a_format_has_no_place_for_is_refused(tmp_path: Path) -> None:
    boxes = stored(LabelSet((image(tmp_path / "in", "a.png", BOXED),)), tmp_path / "boxes")
    with pytest.raises(DataError, match=r"no place for 1 boxes .*a\.png.*--fill-boxes"):
        convert(boxes, tmp_path / "out", Conversion("mvtec"))
    alone = image(tmp_path / "in2", "a.png", kinds=("pore",))
    kinds = stored(LabelSet((alone,)), tmp_path / "kinds", "cvat")
    for name in ("coco", "yolo"):
        with pytest.raises(
            DataError, match=r"kinds without a place of 1 images \(such as a\.png\)"
        ):
            convert(kinds, tmp_path / "out", Conversion(name))
        with pytest.raises(DataError, match="nothing would remain"):
            convert(kinds, tmp_path / "out", Conversion(name, is_lossy=True))
    assert not (tmp_path / "out").exists()


def test_boxes_become_masks_or_are_left_out_on_request(tmp_path: Path) -> None:
    labels = LabelSet((image(tmp_path / "in", "a.png", BOXED), image(tmp_path / "in", "b.png")))
    source = stored(labels, tmp_path / "set")
    convert(source, tmp_path / "full", Conversion("mvtec", fill_boxes=True))
    [bad] = [i for i in read_labels(tmp_path / "full").images if not i.is_good]
    np.testing.assert_array_equal(union_of(bad, "pore"), block(3, 2, 5, 4))
    _, lost = convert(source, tmp_path / "bare", Conversion("mvtec", is_lossy=True))
    assert lost == ["1 boxes without a mask in 1 images (such as a.png)"]
    assert "pore/a.png" in below(tmp_path / "bare")
    assert not (tmp_path / "bare/ground_truth").exists()


def test_no_defective_image_becomes_a_good_one(tmp_path: Path) -> None:
    images = (
        image(tmp_path / "in", "a.png", kinds=("dirt",)),
        image(tmp_path / "in", "b.png", masked("scratch", block(1, 1, 3, 3)), kinds=("dirt",)),
        image(tmp_path / "in", "c.png"),
    )
    source = stored(LabelSet(images), tmp_path / "set", "labelme")
    convert(source, tmp_path / "out", Conversion("coco", is_lossy=True))
    again = read_labels(tmp_path / "out").images
    assert [(i.name, i.is_good) for i in again] == [("b.png", False), ("c.png", True)]
    with pytest.raises(DataError, match=r"which kinds 1 images show \(such as b\.png\)"):
        convert(source, tmp_path / "folders", Conversion("mvtec"))
    convert(source, tmp_path / "folders", Conversion("mvtec", is_lossy=True))
    assert {"combined/b.png", "good/c.png", "dirt/a.png"} <= below(tmp_path / "folders")
    with pytest.raises(DataError, match="kinds without a mask of 1 images"):
        convert(source, tmp_path / "lookout", Conversion("lookout"))


def test_kinds_that_overlap_have_no_place_in_a_colour_map(tmp_path: Path) -> None:
    defects = masked("a1", block(1, 1, 5, 5)), masked("b1", block(3, 3, 5, 5))
    source = stored(LabelSet((image(tmp_path / "in", "a.png", *defects),)), tmp_path / "set")
    with pytest.raises(DataError, match="no place for 9 pixels of several kinds"):
        convert(source, tmp_path / "out", Conversion("lookout"))


@pytest.mark.parametrize("kind", ["a/b", "..", ".x", "mask", "train", "x" * 300, "a\nb", "con:"])
def test_kinds_that_cannot_name_a_folder(tmp_path: Path, kind: str) -> None:
    labels = LabelSet((image(tmp_path / "in", "a.png", masked(kind, block(1, 1, 3, 3))),))
    source = stored(labels, tmp_path / "set")
    with pytest.raises(DataError, match="cannot name a folder of defects; rename it"):
        convert(source, tmp_path / "out", Conversion("mvtec"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "set"]


def test_a_number_cannot_name_a_region_beside_others(tmp_path: Path) -> None:
    defects = masked("7", block(1, 1, 3, 3)), masked("dent", block(9, 9, 3, 3))
    labels = LabelSet((image(tmp_path / "in", "a.png", *defects),))
    with pytest.raises(DataError, match="a number names a region"):
        stored(labels, tmp_path / "out", "mvtec")


@pytest.mark.parametrize("name", ["mvtec", "yolo", "labelme"])
def test_images_that_differ_in_their_extension_alone(tmp_path: Path, name: str) -> None:
    labels = LabelSet((image(tmp_path / "in", "a.png"), image(tmp_path / "in", "a.bmp")))
    with pytest.raises(DataError, match="rename it"):
        stored(labels, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["yolo", "labelme", "cvat", "labelstudio"])
def test_regions_without_a_pixel_are_refused_where_pixels_are_written(
    tmp_path: Path, name: str
) -> None:
    thin = ring("scratch", [[0, 1.6], [4, 1.6], [4, 2.4]]).shape.rings[0]  # type: ignore[union-attr]
    both = ring("scratch", thin.tolist())
    shape = type(both.shape)((thin, thin + 8))  # type: ignore[call-arg, arg-type, misc]
    labels = LabelSet((image(tmp_path / "in", "a.png", Instance.of("scratch", shape)),))
    with pytest.raises(DataError, match="so thin that it covers no pixel"):
        stored(labels, tmp_path / "out", name)
    assert "cover no pixel (a.png)" in " ".join(odd(labels))


def test_an_existing_folder_is_replaced_by_force_where_it_is_ours(
    labels: LabelSet, tmp_path: Path
) -> None:
    source = stored(labels, tmp_path / "set")
    convert(source, tmp_path / "out", Conversion("yolo"))
    with pytest.raises(OutputRefused, match="choose a new folder"):
        convert(source, tmp_path / "out", Conversion("cvat"))
    convert(source, tmp_path / "out", Conversion("cvat", force=True))
    assert "annotations.xml" in below(tmp_path / "out")
    assert "data.yaml" not in below(tmp_path / "out")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.txt").write_text("years of work")
    with pytest.raises(OutputRefused, match="did not write"):
        convert(source, tmp_path / "theirs", Conversion("cvat", force=True))
    with pytest.raises(OutputRefused, match="lies within"):
        convert(source, source / "out", Conversion("cvat"))
    assert (tmp_path / "theirs/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("force", [False, True])
def test_nothing_half_written_stays(
    labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    source = stored(labels, tmp_path / "set")
    if force:
        convert(source, tmp_path / "out", Conversion("coco"))
    before = below(tmp_path / "out")

    def full_disk(path: Path, value: object) -> None:
        if path.name == "c.json":
            raise OSError(28, "No space left on device")
        write_json(path, value)

    monkeypatch.setattr(labelme, "write_json", full_disk)
    with pytest.raises(NotWritten, match="No space left on device"):
        convert(source, tmp_path / "out", Conversion("labelme", force=force))
    assert below(tmp_path / "out") == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_images_are_copied_where_they_cannot_be_linked(
    labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("training.annotations.writing.os.link", refuse)
    stored(labels, tmp_path / "set")
    now = (tmp_path / "set/images/a.png").stat()
    was = labels.images[0].path
    assert (tmp_path / "set/images/a.png").read_bytes() == was.read_bytes()
    assert now.st_ino != was.stat().st_ino


def test_the_summary_counts_and_says_what_is_odd(labels: LabelSet, tmp_path: Path) -> None:
    more = (
        image(tmp_path, "x.png", masked("scratches", block(1, 1, 3, 3)), BOXED),
        image(tmp_path, "y.png", kinds=("dirt",)),
    )
    every = LabelSet((*labels.images, *more), ("read with care",))
    lines = table(every).splitlines()
    assert lines[0] == "8 images: 3 good, 5 defective; 4 test, 2 train, 2 no split"
    assert [line.split() for line in lines[2:]] == [
        ["Dent", "2", "2", "1", "1", "0"],
        ["dirt", "1", "0", "0", "0", "0"],
        ["pore", "1", "1", "0", "0", "1"],
        ["scratch", "1", "1", "1", "0", "0"],
        ["scratches", "1", "1", "1", "0", "0"],
    ]
    assert list(odd(every)) == [
        "read with care",
        "1 images show several kinds (x.png)",
        "1 defective images have no region (y.png)",
        "Dent, dent are taken for a single kind, Dent",
        "scratch and scratches are spelt alike: if they are one kind, rename it",
    ]


def test_the_name_of_a_kind_with_markup_of_ten_kilobytes_is_kept(tmp_path: Path) -> None:
    kind = "<b>&amp;\"'☃" * 1000
    labels = LabelSet((image(tmp_path / "in", "a.png", masked(kind, np.eye(*SIZE, dtype=bool))),))
    for name in ("coco", "yolo", "labelme", "cvat", "labelstudio", "lookout"):
        folder = stored(labels, tmp_path / name, name)
        assert read_labels(folder).images[0].instances[0].kind == kind
    assert len(max(table(labels).splitlines(), key=len)) < 140


def test_good_regions_mark_no_defect(tmp_path: Path) -> None:
    labels = LabelSet((image(tmp_path / "in", "a.png", masked("OK", block(1, 1, 3, 3))),))
    again = read_labels(stored(labels, tmp_path / "set"))
    assert again.images[0].is_good
    assert again.notes == ("1 regions called good mark no defect and are left out",)
