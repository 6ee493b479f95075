import json
import tarfile
from collections import Counter, deque
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from anomaly.bundle import load_bundle
from maskline import app
from tests.conftest import TINY, normal_pixels, png, write_set
from training.config import TrainConfig, load_recipe
from training.data import open_dataset
from training.errors import DataError, RecipeError, ResumeError
from training.images import Damage, ImageRequest, reading
from training.index import indexed
from training.loop import Start, begin_with, new_model
from training.pipeline import Training, train_model
from training.pretrain import pretrain
from training.progress import QUIET
from training.shards import Shards, ShardStream, find_shards
from training.world import World


def config(*changes: str) -> TrainConfig:
    own = ("optimiser.steps=12", "augment.fresh=true", "augment.crop=[0.3, 1.0]", "run.workers=0")
    return load_recipe("default", [*TINY, 'model.scoring.families=["masked"]', *own, *changes])


@pytest.fixture
def products(tmp_path: Path) -> Path:
    return write_set(tmp_path / "products", {"nuts/lot1": 12, "bolts": 8})


@pytest.fixture
def shards(products: Path, tmp_path: Path) -> Path:
    told = ["pack", str(products), "--out", str(tmp_path / "shards"), "--per-shard", "5"]
    answer = CliRunner().invoke(app, told)
    assert answer.exit_code == 0, answer.output
    assert "20 images in 4 shards" in answer.output
    return tmp_path / "shards"


def test_many_products_give_an_autoencoder_that_a_product_starts_from(
    products: Path, tiny_data: Path, tmp_path: Path, tiny_config: TrainConfig
) -> None:
    bundle = pretrain(
        [products], tmp_path / "base", tmp_path / "base.run", config(), progress=QUIET
    )
    assert bundle.calibration is None
    assert bundle.card["training"]["images"] == 20
    base = load_bundle(tmp_path / "base", check_golden=False)
    how = Training(init=tmp_path / "base")
    none = load_recipe("default", [*TINY, "optimiser.steps=1", "optimiser.learning_rate=1e-9"])
    started = train_model(open_dataset(tiny_data), tmp_path / "part", none, how, progress=QUIET)
    pairs = zip(base.model.mae.parameters(), started.model.mae.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert torch.equal(base.model.target.mean, started.model.target.mean)
    assert started.card["training"]["init"] == "base"
    assert started.calibration is not None
    with pytest.raises(RecipeError, match="another shape"):
        begin_with(
            new_model(tiny_config),
            Start({"embed.weight": torch.zeros(3)}, torch.zeros(3), torch.zeros(3)),
        )


def test_a_stopped_pretraining_goes_on_over_the_same_listing(
    products: Path, tmp_path: Path
) -> None:
    whole = pretrain([products], tmp_path / "a", tmp_path / "a.run", config(), progress=QUIET)
    again = pretrain(
        [products], tmp_path / "a", tmp_path / "a.run", config(), resume=True, progress=QUIET
    )
    pairs = zip(whole.model.mae.parameters(), again.model.mae.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    (products / "bolts/999.png").write_bytes(png(normal_pixels(9)))
    with pytest.raises(ResumeError, match="other images"):
        pretrain(
            [products],
            tmp_path / "a",
            tmp_path / "a.run",
            config(),
            resume=True,
            relist=True,
            progress=QUIET,
        )


def test_shards_are_streamed(shards: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "base", tmp_path / "base.run"
    bundle = pretrain(
        [shards], out, run, config("run.workers=2", "run.log_every=4"), progress=QUIET
    )
    assert bundle.card["training"]["images"] is None
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert all(row["images_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_every_image_comes_once_an_epoch_whoever_reads(shards: Path, readers: int) -> None:
    found = find_shards([shards])
    assert found is not None
    stream = ShardStream(found, config(), World(), 0)
    orders = []
    for epoch in range(2):
        keys = [
            key
            for reader in range(readers)
            for key, _ in stream.epoch(epoch, reader, readers, deque())
        ]
        assert Counter(keys) == Counter(
            f"{shards / f'{i // 5:06d}.tar'}:{i:09d}" for i in range(20)
        )
        orders.append(keys)
    assert orders[0] != orders[1]


def test_damaged_images_are_counted_named_and_too_many_stop_the_run(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    with tarfile.open(broken / "0.tar", "w") as file:
        for number in range(6):
            path = tmp_path / f"{number}.png"
            path.write_bytes(png(normal_pixels(number))[: None if number else 60])
            file.add(path, path.name)
    roots, out = [shards, broken], tmp_path / "base"
    with pytest.raises(DataError, match="cannot be decoded"):
        pretrain(roots, out, tmp_path / "a.run", config(), progress=QUIET)
    pretrain(roots, out, tmp_path / "b.run", config("run.unreadable=0.2"), progress=QUIET)
    assert "0.tar:0: the PNG is truncated" in caplog.text


def test_damaged_files_are_replaced_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_set(tmp_path / "many", {"part": 700})
    bad = data / "part/003.png"
    bad.write_bytes(bad.read_bytes()[:80])
    told = config("run.unreadable=0.01", "optimiser.steps=50")
    damage = Damage(told.run.unreadable)
    samples = indexed([data], tmp_path / "run")
    wanted = [
        [ImageRequest(index, None), ImageRequest(index + 1, None)] for index in range(0, 200, 2)
    ]
    for pixels, unreadable in reading(samples, told, wanted, pin=False):
        assert pixels.shape == (2, 3, 64, 64)
        damage.note(len(pixels), unreadable)
    assert damage.read == 200
    assert [name.partition(":")[0] for name in damage.files] == [str(bad)]
    assert f"left out: {bad}" in caplog.text
    pretrain([data], tmp_path / "m", tmp_path / "m.run", told, progress=QUIET)
    none = config("optimiser.steps=50")
    with pytest.raises(DataError, match="cannot be decoded"):
        pretrain([data], tmp_path / "m", tmp_path / "m.run", none, progress=QUIET)
    with pytest.raises(DataError, match=r"1 of the 4 images read so far.*run\.unreadable"):
        Damage(0.0, read=2).note(2, [f"{bad}: truncated"])
    with pytest.raises(DataError, match="of the 200 images"):
        damage.note(0, ["a", "b", "c"])


def test_shards_without_images_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with tarfile.open(tmp_path / "0.tar", "w") as file:
        file.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(DataError, match=r"no images in the shards read by process 0 of 1"):
        pretrain([tmp_path], tmp_path / "m", tmp_path / "m.run", config(), progress=QUIET)
    (tmp_path / "0.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no images in the shards .*0\.tar"):
        pretrain([tmp_path], tmp_path / "m", tmp_path / "m.run", config(), progress=QUIET)


def test_fewer_shards_than_processes_is_said(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give either"):
        find_shards([shards, tmp_path])
    assert find_shards([tmp_path]) is None
    one = Shards(find_shards([shards]).paths[:1])  # type: ignore[union-attr]
    [(name, size, start)] = one.digest
    assert (name, size) == ("000000.tar", Path(one.paths[0]).stat().st_size)
    assert len(start) == 64
