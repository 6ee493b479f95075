import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.training.annotations.conftest import SIZE, draw, image, ring
from training.annotations.formats import FORMATS, Conversion, convert, read_labels, recognised
from training.annotations.labelled import Instance, LabelledImage, LabelSet
from training.annotations.lookout import union_of
from training.annotations.shapes import Outlines, Runs, outline
from training.annotations.writing import write_folder
from training.data import open_dataset, read_mask
from training.labels import is_normal_name

EXACT = ("mvtec", "coco", "yolo", "labelme", "cvat", "labelstudio", "lookout")
BOXED = ("coco", "yolo", "labelme", "cvat", "labelstudio")
few = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
masks = hnp.arrays(np.bool_, SIZE).filter(lambda mask: mask.any())
boxes = st.tuples(
    st.floats(0, SIZE[1] - 3), st.floats(0, SIZE[0] - 3), st.floats(1, 3), st.floats(1, 3)
)
kinds = st.text(st.characters(codec="utf-8", categories=("L", "P", "S")), min_size=1, max_size=9)


def through(name: str, labels: LabelSet) -> LabelSet:
    """Write labels in a format and read them again, recognising it."""
    target = Path(tempfile.mkdtemp()) / "set"
    source = labels.images[0].path.parent
    write_folder(FORMATS[name].write, labels, target, source=source, force=False)
    assert recognised(target) == name
    return read_labels(target)


def last(name: str) -> str:
    return name.rpartition("/")[2]


def by_name(labels: LabelSet) -> dict[str, LabelledImage]:
    return {last(image.name): image for image in labels.images}


@pytest.mark.parametrize("name", EXACT)
def test_a_set_keeps_names_sizes_kinds_splits_and_pixels(name: str, labels: LabelSet) -> None:
    again = through(name, labels)
    assert len(again.images) == len(labels.images)
    assert list(again.kinds()) == ["dent", "scratch"]
    for was in labels.images:
        now = by_name(again)[last(was.name)]
        assert now.path.read_bytes() == was.path.read_bytes()
        assert (now.size, now.is_good) == (was.size, was.is_good)
        assert now.split == ("" if name == "labelme" else was.split)  # which has no place for it
        assert [k.casefold() for k in now.all_kinds()] == [k.casefold() for k in was.all_kinds()]
        for kind in was.all_kinds():
            np.testing.assert_array_equal(union_of(now, kind), union_of(was, kind))


def test_lines_there_and_back_enclose_nothing_however_they_are_rounded() -> None:
    for seed in range(400):
        mask = np.random.default_rng(seed).random(SIZE) < 0.3
        sides = np.array(SIZE[::-1])
        rounded = np.round(outline(mask) / sides, 8) * sides
        np.testing.assert_array_equal(Outlines((rounded,)).pixels(SIZE), mask)


@pytest.mark.parametrize("name", EXACT)
@few
@given(mask=masks)
def test_any_mask_comes_back_pixel_by_pixel(name: str, mask: np.ndarray) -> None:
    """IoU is 1, by YOLO's polygons too: they follow the edges of pixels."""
    folder = Path(tempfile.mkdtemp())
    was = image(folder, "a.png", Instance.of("scratch", Runs.of(mask)))
    good = image(folder, "b.png")
    [now] = [i for i in through(name, LabelSet((was, good))).images if not i.is_good]
    np.testing.assert_array_equal(union_of(now, "scratch"), mask)


@pytest.mark.parametrize("name", BOXED)
@few
@given(box=boxes)
def test_any_box_comes_back(name: str, box: tuple[float, float, float, float]) -> None:
    folder = Path(tempfile.mkdtemp())
    was = image(folder, "a.png", Instance("scratch", box))
    [now] = through(name, LabelSet((was,))).images
    assert now.instances[0].shape is None
    assert now.instances[0].box == pytest.approx(box, abs=2e-4)


@pytest.mark.parametrize("name", BOXED)
@few
@given(points=st.lists(st.tuples(st.floats(0, 32), st.floats(0, 24)), min_size=3, max_size=9))
def test_any_polygon_comes_back(name: str, points: list[tuple[float, float]]) -> None:
    assume((np.ptp(points, 0) > 0.01).all())  # encloses something
    folder = Path(tempfile.mkdtemp())
    was = image(folder, "a.png", ring("scratch", points))
    [now] = through(name, LabelSet((was,))).images
    [instance] = now.instances
    np.testing.assert_allclose(instance.shape.rings[0], points, atol=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["coco", "yolo", "labelme", "cvat", "labelstudio", "lookout"])
@few
@given(kind=kinds)
def test_any_name_of_a_kind_comes_back_as_written(name: str, kind: str) -> None:
    assume(kind.casefold() not in ("pos", "neg", "true", "false") and not is_normal_name(kind))
    defect = Instance.of(kind, Runs.of(np.eye(*SIZE, dtype=bool)))
    [now] = through(name, LabelSet((image(Path(tempfile.mkdtemp()), "a.png", defect),))).images
    assert [i.kind for i in now.instances] == [kind]


@pytest.mark.parametrize("angle", [0, 30, 77])
def test_outlines_of_round_masks_are_exact_in_pycocotools_too(angle: int) -> None:
    """Checked with pycocotools 2.0.11 on 200 ellipses: IoU 1. Here the pixels are counted."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    turned = np.hypot(
        (columns * np.cos(angle) + rows * np.sin(angle)) / 20,
        (rows * np.cos(angle) - columns * np.sin(angle)) / 9,
    )
    mask = turned < 1
    edge = outline(mask)
    x, y = edge.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == mask.sum()


def test_an_image_of_two_kinds_loses_nothing_in_folders(tmp_path: Path) -> None:
    a, b = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    a[2:9, 2:9] = b[5:15, 5:20] = True  # they overlap
    defects = Instance.of("scratch", Runs.of(a)), Instance.of("dent", Runs.of(b))
    labels = LabelSet(
        (image(tmp_path, "x.png", *defects), image(tmp_path, "y.png"), image(tmp_path, "z.png"))
    )
    again = through("mvtec", labels)
    [now] = [i for i in again.images if not i.is_good]
    assert now.name == "combined/x.png"
    np.testing.assert_array_equal(union_of(now, "scratch"), a)
    np.testing.assert_array_equal(union_of(now, "dent"), b)
    [sample] = [s for s in open_dataset(again.images[0].path.parents[1]).samples if s.mask]
    np.testing.assert_array_equal(read_mask(sample, SIZE), a | b)  # what evaluate counts


def test_training_reads_what_was_converted(labels: LabelSet, tmp_path: Path) -> None:
    write_folder(
        FORMATS["coco"].write, labels, tmp_path / "coco", source=tmp_path / "drawn", force=False
    )
    convert(tmp_path / "coco", tmp_path / "set", Conversion("mvtec"))
    files = {p.relative_to(tmp_path / "set").as_posix() for p in (tmp_path / "set").rglob("*.png")}
    assert files == {
        "train/good/d.png",
        "train/good/e.png",
        "test/good/f.png",
        "test/scratch/a.png",
        "test/Dent/lot 1/b.png",
        "test/Dent/c.png",
        "ground_truth/scratch/a_mask.png",
        "ground_truth/Dent/lot 1/b_mask.png",
        "ground_truth/Dent/c_mask.png",
    }
    dataset = open_dataset(tmp_path / "set")
    assert all(s.mask is not None for s in dataset.samples if not s.is_normal)


def test_folders_written_twice_are_the_same(labels: LabelSet) -> None:
    first = through("mvtec", labels)
    second = through("mvtec", first)
    assert [i.name for i in first.images] == [i.name for i in second.images]


def test_kinds_without_a_place_stay_where_there_is_one_for_them(tmp_path: Path) -> None:
    labels = LabelSet((image(tmp_path, "a.png", kinds=("scratch",)), image(tmp_path, "b.png")))
    for name in ("mvtec", "labelme", "cvat", "labelstudio", "lookout"):
        again = by_name(through(name, labels))
        assert again["a.png"].all_kinds() == ("scratch",), name
        assert again["b.png"].is_good


def test_images_are_linked_not_copied(tmp_path: Path) -> None:
    path = draw(tmp_path / "in/a.png")
    labels = LabelSet((LabelledImage(path, "a.png", SIZE),))
    [now] = through("coco", labels).images
    assert now.path.read_bytes() == path.read_bytes()
    assert now.path.stat().st_ino == path.stat().st_ino
