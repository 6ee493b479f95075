import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import TINY, png, samples
from training import decoded as module
from training import images as images_module
from training.config import TrainConfig, load_recipe
from training.data import Sample
from training.decoded import Decoded, decoded_once
from training.images import ImageRequest, PlacedImages, reading, workers
from training.loop import train
from training.progress import QUIET
from training.world import ALONE, World


def fresh(*changes: str) -> TrainConfig:
    return load_recipe(
        "default", [*TINY, "optimiser.steps=12", "augment.fresh=true", "run.workers=0", *changes]
    )


@pytest.fixture(scope="module")
def normals(tiny_data: Path) -> list[Sample]:
    return samples(tiny_data / "train/good")


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    decode = images_module.decode_image

    def counted(data: bytes, **how: Any) -> Any:
        seen.append(data)
        return decode(data, **how)

    monkeypatch.setattr(images_module, "decode_image", counted)
    return seen


def test_each_image_is_decoded_once_and_training_is_the_same(
    normals: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_decoding(monkeypatch)
    without, _ = train(normals, fresh("run.decoded_limit_gb=0.0"), tmp_path / "a", progress=QUIET)
    every_time = len(seen)
    seen.clear()
    kept, _ = train(normals, fresh(), tmp_path / "b", progress=QUIET)
    # Once for the statistics, once for the steps.
    assert len(seen) <= 2 * len(normals) < every_time
    for one, other in zip(without.mae.parameters(), kept.mae.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list((tmp_path / "b").glob("decoded*"))


def test_worker_processes_share_what_was_decoded(normals: list[Sample], tmp_path: Path) -> None:
    config = fresh("run.workers=2")
    wanted = [[ImageRequest(i, None) for i in range(len(normals))]] * 3
    with decoded_once(len(normals), config, tmp_path, ALONE) as kept:
        assert kept is not None
        batches = [
            pixels for pixels, _ in reading(normals, config, wanted, pin=False, decoded=kept)
        ]
        for index in range(len(normals)):
            canvas = kept.get(index)
            assert canvas is not None
            for pixels in batches:
                assert np.array_equal(pixels[index].permute(1, 2, 0).numpy(), canvas)


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 65536, (70, 90, 3), dtype=np.uint16)
    path.write_bytes(png(pixels))
    seen = count_decoding(monkeypatch)
    one = [Sample(path, "good", "train", "a")]
    with decoded_once(1, fresh(), tmp_path, ALONE) as kept:
        assert kept is not None
        read = PlacedImages(one, fresh(), kept)
        first, second = read[ImageRequest(0, None)].canvas, read[ImageRequest(0, None)].canvas
        assert kept.get(0) is None
    assert len(seen) == 2
    assert torch.equal(first, second)
    assert len(first.unique()) > 256


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "usable_cores", lambda: 8)
    many = fresh("run.workers=16")
    assert workers(many, ALONE)["num_workers"] == 8
    assert workers(many, World(size=8, local_size=4))["num_workers"] == 2
    assert workers(many, World(size=16, local_size=16))["num_workers"] == 1
    assert workers(fresh(), ALONE)["num_workers"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        ("augment.crop=[0.2, 1.0]",),  # cut at random
        ("optimiser.steps=1", "optimiser.batch_size=2"),  # seen once
        ("run.decoded_limit_gb=0.0",),
    ],
)
def test_nothing_is_kept_where_it_would_not_help(changes: tuple[str, ...], tmp_path: Path) -> None:
    with decoded_once(8, fresh(*changes), tmp_path, ALONE) as kept:
        assert kept is None


def test_a_disk_without_room_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with decoded_once(8, fresh(), tmp_path, ALONE) as kept:
        assert kept is None
    assert "too little room" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_costs_only_time(
    normals: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Decoded, offset: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Decoded, "_write", full)
    with decoded_once(len(normals), fresh(), tmp_path, ALONE) as kept:
        assert isinstance(kept, Decoded)
        canvas = PlacedImages(normals, fresh(), kept)[ImageRequest(0, None)].canvas
        assert kept.get(0) is None
    assert canvas.shape[0] == 3


def test_a_canvas_that_the_disk_took_half_of_is_not_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    side = fresh().model.preprocess.canvas
    canvas = np.ones((side, side, 3), np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with decoded_once(2, fresh(), tmp_path, ALONE) as kept:
        assert kept is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 + side * side * 3 + 100, before[1]))
        try:
            kept.put(0, canvas)
            kept.put(1, canvas)  # a hundred bytes of it are taken
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        first = kept.get(0)
        assert first is not None
        assert np.array_equal(first, canvas)
        assert kept.get(1) is None
