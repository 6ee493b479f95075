"""Ground truth to images: masks of any name and format are used, and what is missing is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.conftest import png
from tests.training.test_layouts import SIZE, draw, draw_all, masks_of, mvtec
from training.data import open_dataset, read_mask
from training.errors import DataError
from training.truth import check_mask_sizes


@pytest.mark.parametrize(
    "mask",
    ["{}_mask.png", "{}.PNG", "{}_MASK.Png", "{}.bmp", "{}_mask.tif", "{}_GT.tiff", "{}_label.bmp"],
)
def test_masks_of_any_name_and_format_are_used(tmp_path: Path, mask: str) -> None:
    dataset = open_dataset(mvtec(tmp_path, mask=mask))
    assert all(masks_of(dataset))
    assert read_mask(next(s for s in dataset.samples if s.mask), SIZE).any()
    assert dataset.listing.notes == ()


def test_masks_in_jpeg_are_used_with_a_word(tmp_path: Path) -> None:
    dataset = open_dataset(mvtec(tmp_path, mask="{}.jpg"))
    assert all(masks_of(dataset))
    assert any("JPEG" in note for note in dataset.listing.notes)


def test_several_masks_of_an_image_count_together(tmp_path: Path) -> None:
    """MVTec LOCO: ground_truth/<kind>/<stem>/000.png."""
    for folder, count in (
        ("train/good", 5),
        ("validation/good", 4),
        ("test/good", 2),
        ("test/logical_anomalies", 2),
        ("test/structural_anomalies", 1),
    ):
        draw_all(tmp_path / folder, count)
    for kind, image in (("logical", 0), ("logical", 1), ("structural", 0)):
        for index in range(2):
            mask = np.zeros(SIZE, np.uint8)
            mask[index] = 200 + index
            path = tmp_path / f"ground_truth/{kind}_anomalies/{image:03d}/{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(mask))
    dataset = open_dataset(tmp_path)
    bad = [s for s in dataset.select("test") if not s.is_normal]
    assert [s.label for s in bad] == ["logical_anomalies"] * 2 + ["structural_anomalies"]
    assert all(read_mask(s, SIZE).sum() == 2 * SIZE[1] for s in bad)


def test_missing_masks_are_counted_aloud(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "ground_truth/scratch/001_mask.png").unlink()
    [note] = open_dataset(tmp_path).listing.notes
    assert note.startswith("1 of 4 images of scratch have no mask (test/scratch/001.png)")


@pytest.mark.parametrize("stranger", ["dent/000_mask.png", "scratch/009.bmp", "scratch/009/0.PNG"])
def test_a_mask_without_its_image_is_an_error(tmp_path: Path, stranger: str) -> None:
    draw(mvtec(tmp_path) / "ground_truth" / stranger)
    with pytest.raises(DataError, match="has no image"):
        open_dataset(tmp_path)


def test_one_mask_for_two_images_is_an_error(tmp_path: Path) -> None:
    for folder in ("test/good", "test/a", "test/b"):
        draw_all(tmp_path / folder, 1)
    draw(tmp_path / "ground_truth/000.png")
    with pytest.raises(DataError, match="fits both"):
        open_dataset(tmp_path)


def test_a_mask_that_is_no_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    mvtec(tmp_path)
    samples = open_dataset(tmp_path).samples
    check_mask_sizes(samples)
    (tmp_path / "ground_truth/scratch/003_mask.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"003_mask\.png cannot be read"):
        check_mask_sizes(samples)


def test_a_turned_mask_is_of_another_size(tmp_path: Path) -> None:
    mvtec(tmp_path)
    draw(tmp_path / "ground_truth/scratch/000_mask.png", size=(SIZE[1], SIZE[0]))
    with pytest.raises(DataError, match="is 20×24 px, its image 24×20 px"):
        check_mask_sizes(open_dataset(tmp_path).samples)


def test_an_image_on_its_side_has_its_mask_upright(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (tmp_path / "test/scratch/000.png").unlink()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "test/scratch/000.jpg"
    Image.new("RGB", SIZE).save(path, exif=exif)  # stored 20 wide, shown 24 wide
    check_mask_sizes(open_dataset(tmp_path).samples)
