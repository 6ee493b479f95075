"""Near copies count as one part, and other parts do not."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import open_dataset
from training.near import near_copies, with_pictures
from training.progress import QUIET
from training.samples import Sample

SIDE = 96


def parts(count: int, seed: int = 0, spread: float = 20.0) -> list[np.ndarray]:
    """Good parts: one product, each with a surface of its own."""
    generator = np.random.default_rng(seed)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    product = 120 + 60 * np.sin(rows / 9) * np.cos(cols / 13)
    surfaces = [
        cv2.resize(generator.normal(0, spread, (12, 12)), (SIDE, SIDE)) for _ in range(count)
    ]
    return [np.clip(product + surface, 0, 255) for surface in surfaces]


def frames(part: np.ndarray, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Frames of a burst: a little more light each time, and the camera's noise."""
    return [part * (1 + 0.004 * i) + generator.normal(0, 2, part.shape) for i in range(count)]


def write(folder: Path, name: str, image: np.ndarray, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / f"{name}{suffix}"), np.clip(image, 0, 255).astype(np.uint8))


def burst(folder: Path, parts_shown: int = 8, each: int = 3) -> None:
    generator = np.random.default_rng(1)
    for number, part in enumerate(parts(parts_shown)):
        for index, frame in enumerate(frames(part, each, generator)):
            write(folder, f"part{number:02d}_{index}", frame)


def test_frames_of_a_burst_are_one_part_and_are_split_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    burst(tmp_path)
    dataset = open_dataset(tmp_path, progress=QUIET)
    shown = {sample.session: set() for sample in dataset.samples}
    for sample in dataset.samples:
        shown[sample.session].add((sample.path.stem.partition("_")[0], sample.split))
    assert len(shown) == 8
    assert all(len(together) == 1 for together in shown.values())
    assert "16 images are near copies" in caplog.text


def test_other_parts_stay_apart_however_alike_they_are(tmp_path: Path) -> None:
    for spread in (2.0, 20.0):
        for number, part in enumerate(parts(30, spread=spread)):
            write(tmp_path / str(spread), f"{number:02d}", part, ".png")
        samples = open_dataset(tmp_path / str(spread), progress=QUIET).samples
        assert len({sample.session for sample in samples}) == 30


def test_two_variants_of_a_product_are_not_two_parts() -> None:
    dark, bright = parts(20), [part * 0.3 + 170 for part in parts(20, seed=1)]
    small = np.stack([cv2.resize(part, (32, 32)).ravel() / 255 for part in (*dark, *bright)])
    assert len(set(near_copies(small.astype(np.float32)).tolist())) == 40


def test_a_picture_encoded_anew_is_not_held_out_from_its_original(tmp_path: Path) -> None:
    for number, part in enumerate(parts(14)):
        write(tmp_path / "train/good", f"{number:02d}", part, ".png")
    for number, part in enumerate(parts(6, seed=5)):
        write(tmp_path / "validation/good", f"{number:02d}", part, ".png")
    write(tmp_path / "validation/good", "again", parts(14)[3])
    write(tmp_path / "test/good", "once", parts(14)[4])
    dataset = open_dataset(tmp_path, progress=QUIET)
    assert [s.path.stem for s in dataset.select("validation")] == [f"{i:02d}" for i in range(6)]
    assert any("1 test images are copies" in note for note in dataset.listing.notes)
    kept = open_dataset(tmp_path, near_copies=False, progress=QUIET)
    assert len(kept.select("validation")) == 7


def test_what_cannot_be_read_is_left_for_the_training_to_say(tmp_path: Path) -> None:
    burst(tmp_path)
    (tmp_path / "part00_0.jpg").write_bytes(b"no picture")
    samples = open_dataset(tmp_path, progress=QUIET).samples
    assert [s.path.stem for s in samples if not s.picture] == ["part00_0"]


def test_few_or_very_many_images_are_not_looked_at(tmp_path: Path) -> None:
    burst(tmp_path, parts_shown=3)
    few = [
        Sample(path, "good", "train", str(path), digest=str(path)) for path in tmp_path.iterdir()
    ]
    assert with_pictures(few, QUIET) == few
    assert with_pictures(few * 400, QUIET) == few * 400
