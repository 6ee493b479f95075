import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anomaly.mae import MaskedAutoencoder
from anomaly.masking import MASK_KINDS
from tests.conftest import TINY, samples
from training import checkpoint as checkpoint_module
from training import loop
from training.config import TrainConfig, load_recipe
from training.data import Sample
from training.errors import DataError, NotWritten, OutOfMemory, ResumeError, TrainingDiverged
from training.loop import new_model, train
from training.meter import training_flops
from training.progress import QUIET
from training.schedule import batch_indices, ema_decay, learning_rate
from training.trainer import Trainer


@pytest.fixture(scope="module")
def normals(tiny_data: Path) -> list[Sample]:
    return samples(tiny_data / "train/good")


def short(*changes: str) -> TrainConfig:
    return load_recipe("default", [*TINY, "optimiser.steps=12", "run.checkpoint_every=4", *changes])


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(
    normals: list[Sample], tmp_path: Path
) -> None:
    first, _ = train(normals, short(), tmp_path / "a", progress=QUIET)
    second, _ = train(normals, short(), tmp_path / "b", progress=QUIET)
    other, _ = train(normals, short("run.seed=1"), tmp_path / "c", progress=QUIET)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("changes", [(), ("augment.fresh=true",), ("augment.copies=2",)])
def test_a_resumed_run_equals_an_unbroken_one(
    normals: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
) -> None:
    config = short(*changes)
    unbroken, _ = train(normals, config, tmp_path / "whole", progress=QUIET)
    take_step = loop.take_step

    def power_cut(trainer: Trainer, step: int, tokens: torch.Tensor) -> torch.Tensor:
        if step == 9:
            raise KeyboardInterrupt
        return take_step(trainer, step, tokens)

    monkeypatch.setattr(loop, "take_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train(normals, config, tmp_path / "cut", progress=QUIET)
    monkeypatch.undo()
    resumed, _ = train(normals, config, tmp_path / "cut", resume=True, progress=QUIET)
    assert torch.equal(weights(unbroken), weights(resumed))
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    losses = [[json.loads(line)["loss"] for line in log.splitlines()] for log in logs]
    assert losses[0] == losses[1]


def test_resuming_without_a_checkpoint_starts_from_the_beginning(
    normals: list[Sample], tmp_path: Path
) -> None:
    _, card = train(normals, short(), tmp_path, resume=True, progress=QUIET)
    assert card["steps"] == 12


def test_another_recipe_or_other_images_cannot_be_resumed(
    normals: list[Sample], tmp_path: Path
) -> None:
    train(normals, short(), tmp_path, progress=QUIET)
    with pytest.raises(ResumeError, match="another recipe"):
        train(normals, short("optimiser.learning_rate=0.1"), tmp_path, resume=True, progress=QUIET)
    with pytest.raises(ResumeError, match="another recipe"):
        train(normals[:-1], short(), tmp_path, resume=True, progress=QUIET)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(ResumeError, match="cannot be read"):
        train(normals, short(), tmp_path, resume=True, progress=QUIET)


def test_a_checkpoint_is_written_whole_or_not_at_all(
    normals: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(normals, short(), tmp_path, progress=QUIET)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.os, "fsync", full)
    with pytest.raises(NotWritten, match="No space left on device; what was there"):
        train(normals, short("run.seed=4"), tmp_path, progress=QUIET)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "log.jsonl"]


def test_a_non_finite_loss_stops_with_the_step_and_the_batch(
    normals: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = loop.objective
    calls = iter(range(100))

    def diverging(*arguments: object) -> torch.Tensor:
        value = objective(*arguments)
        return value * math.nan if next(calls) == 5 else value

    monkeypatch.setattr(loop, "objective", diverging)
    with pytest.raises(TrainingDiverged, match=r"nan at step 6; its batch was .*\.png") as caught:
        train(normals, short(), tmp_path, progress=QUIET)
    assert "learning_rate" in str(caught.value)


def test_the_loss_falls_and_the_log_says_so(
    tiny_config: TrainConfig, normals: list[Sample], tmp_path: Path
) -> None:
    config = replace(tiny_config, run=replace(tiny_config.run, tensorboard=True, log_every=10))
    _, card = train(normals, config, tmp_path, progress=QUIET)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, 81, 10))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["images_per_s"] > 0
    assert card["final_loss"] == rows[-1]["loss"]
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.slow
def test_features_are_cached_and_trained_on(normals: list[Sample], tmp_path: Path) -> None:
    config = short(
        'model.target.kind="features"',
        "model.target.patch=16",
        'model.scoring.errors=["cosine"]',
        "objective.cosine_weight=1.0",
    )
    cached, _ = train(normals, config, tmp_path / "a", progress=QUIET)
    assert [tuple(bank.shape) for bank in cached.memory.banks] == [
        (200, 24),
        (200, 40),
        (200, 112),
        (200, 320),
    ]
    fresh, _ = train(
        normals,
        replace(config, run=replace(config.run, cache_limit_gb=0.0)),
        tmp_path / "b",
        progress=QUIET,
    )
    torch.testing.assert_close(cached.target.mean, fresh.target.mean, atol=2e-3, rtol=1e-2)


def test_one_image_is_too_few(normals: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        train(normals[:1], short(), tmp_path, progress=QUIET)


def test_bf16_trains_on_any_device(normals: list[Sample], tmp_path: Path) -> None:
    model, card = train(normals, short("run.precision=bf16"), tmp_path, progress=QUIET)
    assert card["precision"] == "torch.bfloat16"
    assert all(p.dtype == torch.float32 for p in model.mae.parameters())


def test_a_batch_in_parts_learns_the_same(normals: list[Sample], tmp_path: Path) -> None:
    whole, _ = train(normals, short(), tmp_path / "a", progress=QUIET)
    parts, _ = train(normals, short("run.at_once=5"), tmp_path / "b", progress=QUIET)
    # Sums in another order: the processor at hand decides how far apart they end (2.6e-4 was seen).
    torch.testing.assert_close(weights(parts), weights(whole), atol=5e-4, rtol=1e-3)


def test_out_of_memory_takes_fewer_images_at_once_and_says_so(
    normals: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = train(normals, short(), tmp_path / "a", progress=QUIET)
    forward, fits = MaskedAutoencoder.forward, 5

    def small_device(self: MaskedAutoencoder, tokens: torch.Tensor, *indices: torch.Tensor) -> Any:
        if not tokens.is_meta and len(tokens) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, tokens, *indices)

    monkeypatch.setattr(MaskedAutoencoder, "forward", small_device)
    found, _ = train(
        normals, short('model.scoring.families=["masked"]'), tmp_path / "b", progress=QUIET
    )
    assert [r.message for r in caplog.records if "out of memory" in r.message] == [
        "out of memory: 8 images at once from step 1 on",
        "out of memory: 4 images at once from step 1 on",
    ]
    torch.testing.assert_close(weights(found.mae), weights(whole.mae), atol=2e-4, rtol=1e-3)
    fits = 0
    with pytest.raises(OutOfMemory, match=r"run\.at_once=1"):
        train(normals, short(), tmp_path / "c", progress=QUIET)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_every_kind_of_mask_can_be_trained_with(
    normals: list[Sample], tmp_path: Path, kind: str
) -> None:
    changes = (f"objective.masks={kind}", 'model.scoring.families=["masked"]')
    model, _ = train(normals, short(*changes), tmp_path, progress=QUIET)
    assert bool(weights(model).isfinite().all())


def test_the_log_says_how_well_the_machine_is_used(normals: list[Sample], tmp_path: Path) -> None:
    train(normals, short("run.log_every=6"), tmp_path, progress=QUIET)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(0 < row["matrix_share"] < 1.5 for row in rows)
    assert all(0 <= row["data_wait"] < 1 for row in rows)


def test_the_operations_of_a_step_are_those_of_its_matrices() -> None:
    config = short("objective.decode_share=1.0", "objective.mask_ratio=[0.5, 0.5]")
    model = new_model(config)
    mae, tokens, seen = config.model.mae, 64, 32
    wide = mae.width
    block = 2 * seen * 12 * wide**2 + 4 * seen * seen * wide  # qkv, projection, mlp; attention
    cross = 2 * seen * 12 * wide**2 + 4 * seen * seen * wide
    ends = 2 * seen * (192 * wide + wide * wide + 192 * wide)
    forward = mae.depth * block + mae.decoder_depth * cross + ends
    assert model.window.length == tokens
    assert training_flops(model, config, cached=True) == pytest.approx(3 * forward, rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_is_tracked_in_mlflow_and_goes_on_in_the_same_one(
    normals: list[Sample], tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    where = f"sqlite:///{tmp_path}/tracked.db"
    config = short(f'run.mlflow="{where}"', "run.log_every=4")
    train(normals, config, tmp_path / "part.run", progress=QUIET)
    train(normals, config, tmp_path / "part.run", resume=True, progress=QUIET)
    client = mlflow.MlflowClient(tracking_uri=where)
    (experiment,) = [e for e in client.search_experiments() if e.name == "maskline"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("part", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [4, 8, 12]


def test_epochs_show_every_image_once_before_any_twice() -> None:
    seen = [i for step in range(6) for i in batch_indices(step, 9, 3, seed=1).tolist()]
    assert sorted(seen[:9]) == sorted(seen[9:]) == list(range(9))
    assert seen[:9] != seen[9:]
    assert len(batch_indices(0, 2, 16, seed=0)) == 16


def test_the_schedule_warms_up_and_decays_to_nothing() -> None:
    config = short("optimiser.steps=100", "optimiser.warmup_steps=10").optimiser
    rates = [learning_rate(step, config) for step in range(101)]
    assert max(rates) == pytest.approx(config.learning_rate, rel=1e-3)
    assert rates[0] == pytest.approx(config.learning_rate / 10)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert ema_decay(0, 0.99) == pytest.approx(0.1)
    assert ema_decay(10_000, 0.99) == 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_training_on_a_gpu(normals: list[Sample], tmp_path: Path, precision: str) -> None:
    config = short("run.device=cuda", f"run.precision={precision}", "run.compile=true")
    model, card = train(normals, config, tmp_path, progress=QUIET)
    assert card["device"].startswith("cuda")
    assert bool(weights(model).isfinite().all())
