"""Training: normal images in, an uncalibrated model out. Read `train` first."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from anomaly.config import to_dict
from anomaly.device import to_device
from anomaly.mae import MaskedAutoencoder, take
from anomaly.masking import split_indices, training_masks
from anomaly.model import AnomalyModel
from anomaly.types import Block, Grid
from training.checkpoint import check_run, fingerprint, load_checkpoint, save_checkpoint
from training.config import ObjectiveConfig, TrainConfig
from training.data import Sample
from training.detail import fit_detail
from training.errors import DataError, OutOfMemory, RecipeError, TrainingDiverged
from training.evidence import fit_evidence
from training.exposure import warn_of_dark
from training.index import identity
from training.log import RunLog
from training.meter import Meter, matrix_rate, training_flops
from training.progress import SHOWN, Progress
from training.schedule import (
    draw_mask_ratio,
    ema_decay,
    learning_rate,
    step_generator,
)
from training.tokens import CachedTokens, TokenSetup, TokenSource, prepare_tokens
from training.trainer import Trainer, new_trainer, precision_of
from training.world import ALONE, World, device_of

_log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from: a trained autoencoder and the standardisation of its tokens."""

    mae: Mapping[str, torch.Tensor]
    mean: torch.Tensor
    spread: torch.Tensor


def train(
    samples: Sequence[Sample],
    config: TrainConfig,
    run_folder: Path,
    *,
    world: World = ALONE,
    start: Start | None = None,
    resume: bool = False,
    progress: Progress = SHOWN,
) -> tuple[AnomalyModel, dict[str, Any]]:
    """Train on normal images; returns the model and the training part of its card.

    `run_folder` gets the checkpoint, the JSON-Lines log and TensorBoard's files. Of several
    processes only the first fits the memory, the repair head and the detail head. Raises
    `TrainingDiverged`, `ResumeError` or `DataError`.
    """
    if len(samples) < 2:
        raise DataError(
            f"{len(samples)} normal training image(s): too few; a few dozen are a start"
        )
    started = time.monotonic()
    progress = progress.within(is_first=world.is_first)
    mark, checkpoint = fingerprint(config, identity(samples)), run_folder / CHECKPOINT
    if resume and checkpoint.is_file():
        check_run(checkpoint, mark)  # before features take minutes
    if world.is_first:
        warn_of_dark(samples, config.model.preprocess)
    run_folder.mkdir(parents=True, exist_ok=True)
    model = new_model(config, world)
    if start is not None:
        begin_with(model, start)
    setup = TokenSetup(model.target, model.window, run_folder, world, fitted=start is not None)
    source = prepare_tokens(samples, config, setup, progress)
    loss = optimise(
        model,
        source,
        config,
        run_folder=run_folder,
        mark=mark,
        world=world,
        resume=resume,
        progress=progress,
    )
    if world.is_first:
        fit_evidence(model, samples, source, config, progress=progress)
        fit_detail(model, samples, config, progress=progress)
    return model.eval(), {"images": sum(s.quality is None for s in samples)} | card_of(
        model, config, world, loss=loss, started=started
    )


def optimise(
    model: AnomalyModel,
    source: TokenSource,
    config: TrainConfig,
    *,
    run_folder: Path,
    mark: str,
    world: World = ALONE,
    resume: bool = False,
    progress: Progress = SHOWN,
) -> float:
    """Train the autoencoder in place; its weights end as their average. Returns the last loss."""
    trainer = new_trainer(config, model, source, world)
    checkpoint = run_folder / CHECKPOINT
    first = _resume(trainer, checkpoint, mark) if resume else 0
    with RunLog(run_folder, first, config.run, on=world.is_first) as log:
        loss = _run(trainer, first, checkpoint, mark=mark, log=log, progress=progress)
    with torch.no_grad():
        torch._foreach_copy_(list(model.mae.parameters()), trainer.average)
    model.eval()
    return loss


def card_of(
    model: AnomalyModel, config: TrainConfig, world: World, *, loss: float, started: float
) -> dict[str, Any]:
    """Describe a finished training, for the model's card."""
    device = model.target.mean.device
    return {
        "steps": config.optimiser.steps,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(device),
        "processes": world.size,
        "precision": str(precision_of(config, device, world)),
        "final_loss": loss if math.isfinite(loss) else None,  # a finished run, resumed
        "recipe": to_dict(config),
    }


def new_model(config: TrainConfig, world: World = ALONE) -> AnomalyModel:
    """Build an untrained model from the recipe's seed, on the recipe's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = AnomalyModel.fresh(config.model)
    return model.to(device_of(config.run.device, world))


def begin_with(model: AnomalyModel, start: Start) -> None:
    """Copy a trained autoencoder and its standardisation; raises `RecipeError` for a misfit."""
    try:
        model.mae.load_state_dict(dict(start.mae))
        model.target.mean.copy_(start.mean)
        model.target.spread.copy_(start.spread)
    except RuntimeError as error:
        raise RecipeError(
            f"the weights to start from are of another shape: {error}. Train with the recipe they "
            "were pretrained with (model.target, model.mae), or without --init"
        ) from error


def objective(
    predicted: torch.Tensor,
    true: torch.Tensor,
    blocks: Sequence[Block],
    config: ObjectiveConfig,
) -> torch.Tensor:
    """Weighted cosine distance and mean squared error of (B, Q, C) tokens, in float32.

    Every block counts the same, however many channels it has.
    """
    widths = [block.width for block in blocks]
    losses = []
    for p, t in zip(
        torch.split(predicted.float(), widths, 2), torch.split(true, widths, 2), strict=True
    ):
        cosine = (1 - F.cosine_similarity(p, t, dim=-1)).mean()
        losses.append(config.cosine_weight * cosine + config.l2_weight * F.mse_loss(p, t))
    return torch.stack(losses).mean()


def _run(
    trainer: Trainer, first: int, checkpoint: Path, *, mark: str, log: RunLog, progress: Progress
) -> float:
    """Take all steps from `first` on; returns the last logged loss."""
    config = trainer.config
    last = config.optimiser.steps
    trainer.model.mae.train()
    loss, meter, batches = math.nan, _meter(trainer), trainer.source.steps(first)
    with progress.bar("training", total=last, unit="step", initial=first) as bar:
        for step in range(first, last):
            with meter.waiting():
                tokens = next(batches)  # (b, L, C), this process's share
            value = take_step(trainer, step, tokens)
            meter.stepped()
            bar.update()
            if (step + 1) % config.run.log_every == 0 or step + 1 == last:
                loss = _checked(_over_all(value, trainer.world), trainer, step)
                rate, rates = learning_rate(step, config.optimiser), meter.rates()
                log.write(step + 1, loss=loss, learning_rate=rate, **rates)
                text = _progress_text(loss, rates)
                bar.tell(text, loss=loss, images_per_s=rates["images_per_s"])
            if (step + 1) % config.run.checkpoint_every == 0 or step + 1 == last:
                _checked(value, trainer, step)
                if trainer.world.is_first:
                    save_checkpoint(checkpoint, step + 1, trainer.state, mark)
    return loss


def _meter(trainer: Trainer) -> Meter:
    config, model, device = trainer.config, trainer.model, trainer.device
    cached = isinstance(trainer.source, CachedTokens)
    flops = training_flops(model, config, cached=cached)
    peak = trainer.world.size * matrix_rate(device, trainer.precision)
    name = str(trainer.precision).removeprefix("torch.")
    _log.info("training in %s, products at %.0f GFLOP/s", name, peak / 1e9)
    return Meter(config.optimiser.batch_size, flops, peak)


def _progress_text(loss: float, rates: dict[str, float]) -> str:
    return (
        f"loss {loss:.4f}, {rates['images_per_s']:.0f} images/s, {rates['matrix_share']:.0%} of "
        f"the matrix rate, {rates['data_wait']:.0%} waiting for data"
    )


def _over_all(loss: torch.Tensor, world: World) -> torch.Tensor:
    return world.total(loss.detach().clone()) / world.size


def take_step(trainer: Trainer, step: int, tokens: torch.Tensor) -> torch.Tensor:
    """One optimiser step; the loss stays on the device."""
    config, model = trainer.config, trainer.model
    for group in trainer.optimiser.param_groups:
        group["lr"] = learning_rate(step, config.optimiser)
    if config.objective.masks == "complementary":
        tokens = tokens[::2].repeat_interleave(2, dim=0)[: len(tokens)]
    visible, queries = draw_indices(
        tokens,
        model.window,
        config,
        generator=step_generator(step, config.run.seed),
        world=trainer.world,
    )
    loss = _gradients(trainer, step, tokens, visible=visible, queries=queries)
    trainer.scaler.unscale_(trainer.optimiser)
    torch.nn.utils.clip_grad_norm_(model.mae.parameters(), config.optimiser.clip_norm)
    trainer.scaler.step(trainer.optimiser)
    trainer.scaler.update()
    _update_average(trainer.average, model.mae, ema_decay(step, config.optimiser.ema_decay))
    return loss


def _gradients(
    trainer: Trainer,
    step: int,
    tokens: torch.Tensor,
    *,
    visible: torch.Tensor,
    queries: torch.Tensor,
) -> torch.Tensor:
    """Gather the gradients of a batch, in fewer images at once where memory does not hold all."""
    while True:
        try:
            return _accumulate(trainer, step, tokens, visible=visible, queries=queries)
        except torch.OutOfMemoryError as error:
            fewer = min(trainer.at_once, len(tokens)) // 2
            if fewer == 0 or trainer.world.size > 1:  # the others wait in this step's exchange
                raise OutOfMemory(
                    f"{trainer.at_once} images at once do not fit the memory of "
                    f"{trainer.device}; go on "
                    f"with --resume --set run.at_once={max(1, fewer)}, or take a smaller model"
                ) from error
            trainer.at_once = fewer
            _log.warning("out of memory: %d images at once from step %d on", fewer, step + 1)
            torch.cuda.empty_cache()


def _accumulate(
    trainer: Trainer,
    step: int,
    tokens: torch.Tensor,
    *,
    visible: torch.Tensor,
    queries: torch.Tensor,
) -> torch.Tensor:
    config, target = trainer.config, trainer.model.target
    precision, working, seen = trainer.precision, trainer.working, tokens
    autocasts = precision != torch.float32 and working is None
    trainer.optimiser.zero_grad(set_to_none=True)
    if working is not None:
        working.refresh()
        seen = tokens.bfloat16()
    total = tokens.new_zeros(())
    for first in range(0, len(tokens), trainer.at_once):
        part = slice(first, min(first + trainer.at_once, len(tokens)))
        with _exchanged(trainer, now=part.stop == len(tokens)):
            with torch.autocast(tokens.device.type, precision, enabled=autocasts):
                predicted = trainer.network(seen[part], visible[part], queries[part])  # (b, Q, C)
            true = target.to_predict(take(tokens[part], queries[part]))
            loss = objective(predicted, true, target.blocks, config.objective)
            loss = loss * ((part.stop - first) / len(tokens))
            if tokens.device.type == "cpu":  # no synchronisation to pay for: stop at the very step
                _checked(loss, trainer, step)
            trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if working is not None:
                working.hand_over()
        total += loss.detach()
    return total


def _exchanged(trainer: Trainer, *, now: bool) -> AbstractContextManager[None]:
    """Exchange gradients between processes in the last part of a batch only."""
    if now or not isinstance(trainer.network, DistributedDataParallel):
        return nullcontext()
    return trainer.network.no_sync()


def draw_indices(
    tokens: torch.Tensor,
    window: Grid,
    config: TrainConfig,
    *,
    generator: torch.Generator,
    world: World = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw this process's visible (b, K) and decoded (b, Q) places, on the tokens' device.

    They are drawn for the whole batch, so that they do not depend on how many processes share it.
    """
    settings, batch = config.objective, len(tokens) * world.size
    share = world.share(batch)
    ratio = draw_mask_ratio(settings, generator)
    salience = torch.zeros(batch, tokens.shape[1])
    if settings.masks == "salient":
        salience[share] = (tokens - tokens.mean(dim=1, keepdim=True)).norm(dim=2).cpu()
    masks = training_masks(settings.masks, salience, window, mask_ratio=ratio, generator=generator)
    visible, hidden = split_indices(masks)
    count = max(1, round(hidden.shape[1] * settings.decode_share))
    order = torch.rand(hidden.shape, generator=generator).argsort(dim=1)[:, :count]
    queries = hidden.gather(1, order)
    return to_device(visible[share], tokens.device), to_device(queries[share], tokens.device)


@torch.no_grad()
def _update_average(average: list[torch.Tensor], mae: MaskedAutoencoder, decay: float) -> None:
    torch._foreach_lerp_(average, [p.detach() for p in mae.parameters()], 1 - decay)


def _checked(loss: torch.Tensor, trainer: Trainer, step: int) -> float:
    value = float(loss.detach())
    if math.isfinite(value):
        return value
    names = trainer.source.names(step)
    raise TrainingDiverged(
        f"the loss became {value} at step {step + 1}; its batch was {', '.join(names)}. Lower "
        "optimiser.learning_rate, or set run.precision to fp32, and train again"
    )


def _resume(trainer: Trainer, checkpoint: Path, mark: str) -> int:
    if not checkpoint.is_file():
        _log.info("no checkpoint in %s: starting from the beginning", checkpoint.parent)
        return 0
    return load_checkpoint(checkpoint, trainer.state, mark)
