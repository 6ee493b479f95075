"""Training: normal images in, an uncalibrated model out. Read `train` first."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from anomaly.config import to_dict
from anomaly.device import choose_device
from anomaly.mae import MaskedAutoencoder, take
from anomaly.masking import random_masks, split_indices
from anomaly.model import AnomalyModel
from anomaly.types import Block
from training.checkpoint import RunState, fingerprint, load_checkpoint, save_checkpoint
from training.config import ObjectiveConfig, TrainConfig
from training.data import Sample
from training.errors import DataError, TrainingDiverged
from training.evidence import fit_evidence
from training.log import RunLog
from training.schedule import (
    draw_mask_ratio,
    ema_decay,
    learning_rate,
    step_generator,
)
from training.tokens import TokenSource, prepare_tokens

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Trainer:
    """The moving parts of a run."""

    config: TrainConfig
    model: AnomalyModel
    source: TokenSource
    optimiser: torch.optim.Optimizer
    average: list[torch.Tensor]
    scaler: torch.amp.GradScaler
    network: Callable[..., torch.Tensor]  # the autoencoder, compiled where the recipe asks for it

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        return RunState(self.model.mae, self.average, self.optimiser, self.scaler)


def train(
    samples: Sequence[Sample],
    config: TrainConfig,
    run_folder: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> tuple[AnomalyModel, dict[str, Any]]:
    """Train on normal images; returns the model and the training part of its card.

    `run_folder` gets the checkpoint, the JSON-Lines log and TensorBoard's files. Raises
    `TrainingDiverged`, `ResumeError` or `DataError`.
    """
    if len(samples) < 2:
        raise DataError(
            f"{len(samples)} normal training image(s): too few; a few dozen are a start"
        )
    started = time.monotonic()
    run_folder.mkdir(parents=True, exist_ok=True)
    model = new_model(config)
    source = prepare_tokens(
        samples, config, model.target, model.window, _progress("features", quiet)
    )
    trainer = _trainer(config, model, source)
    mark = fingerprint(config, samples)
    checkpoint = run_folder / "checkpoint.safetensors"
    first = _resume(trainer, checkpoint, mark) if resume else 0
    with RunLog(run_folder, first, tensorboard=config.run.tensorboard) as log:
        loss = _run(trainer, first, checkpoint, mark, log, quiet=quiet)
    with torch.no_grad():
        torch._foreach_copy_(list(model.mae.parameters()), trainer.average)
    model.eval()
    fit_evidence(model, samples, source, config, quiet=quiet)
    card = {
        "images": len(samples),
        "steps": config.optimiser.steps,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(model.target.mean.device),
        "precision": str(_precision(config, model.target.mean.device)),
        "final_loss": loss if math.isfinite(loss) else None,  # a finished run, resumed
        "recipe": to_dict(config),
    }
    return model.eval(), card


def new_model(config: TrainConfig) -> AnomalyModel:
    """Build an untrained model from the recipe's seed, on the recipe's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = AnomalyModel.fresh(config.model)
    device = choose_device(config.run.device)
    model = model.to(device)
    if device.type == "cuda":
        model.target = model.target.to(memory_format=torch.channels_last)
    return model


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


def _trainer(config: TrainConfig, model: AnomalyModel, source: TokenSource) -> Trainer:
    settings = config.optimiser
    optimiser = torch.optim.AdamW(
        [p for p in model.mae.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
    )
    device = model.target.mean.device
    fp16 = _precision(config, device) == torch.float16
    network = torch.compile(model.mae, dynamic=True) if config.run.compile else model.mae
    average = [p.detach().clone() for p in model.mae.parameters()]
    scaler = torch.amp.GradScaler(device.type, enabled=fp16)
    return Trainer(config, model, source, optimiser, average, scaler, network)


def _run(
    trainer: Trainer, first: int, checkpoint: Path, mark: str, log: RunLog, *, quiet: bool
) -> float:
    """Take all steps from `first` on; returns the last logged loss."""
    config = trainer.config
    last = config.optimiser.steps
    trainer.model.mae.train()
    loss, began = math.nan, time.monotonic()
    with tqdm(total=last, initial=first, desc="training", unit="step", disable=quiet) as bar:
        for step in range(first, last):
            value = _step(trainer, step)
            bar.update()
            if (step + 1) % config.run.log_every == 0 or step + 1 == last:
                loss = _checked(value, trainer, step)
                speed = (step + 1 - first) * config.optimiser.batch_size
                speed_s = speed / (time.monotonic() - began)
                rate = learning_rate(step, config.optimiser)
                log.write(step + 1, loss=loss, learning_rate=rate, images_per_s=round(speed_s, 1))
                bar.set_postfix_str(f"loss {loss:.4f}, {speed_s:.0f} images/s")
            if (step + 1) % config.run.checkpoint_every == 0 or step + 1 == last:
                _checked(value, trainer, step)
                save_checkpoint(checkpoint, step + 1, trainer.state, mark)
    return loss


def _step(trainer: Trainer, step: int) -> torch.Tensor:
    """One optimiser step; the loss stays on the device."""
    config, model = trainer.config, trainer.model
    for group in trainer.optimiser.param_groups:
        group["lr"] = learning_rate(step, config.optimiser)
    tokens = trainer.source.batch(step)  # (B, L, C)
    visible, queries = draw_indices(tokens, config.objective, step_generator(step, config.run.seed))
    precision = _precision(config, tokens.device)
    autocast = torch.autocast(tokens.device.type, precision, enabled=precision != torch.float32)
    with autocast:
        predicted = trainer.network(tokens, visible, queries)  # (B, Q, C)
    true = model.target.wanted(take(tokens, queries))
    loss = objective(predicted, true, model.target.blocks, config.objective)
    if tokens.device.type == "cpu":  # no synchronisation to pay for: stop at the very step
        _checked(loss, trainer, step)
    trainer.optimiser.zero_grad(set_to_none=True)
    trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    trainer.scaler.unscale_(trainer.optimiser)
    torch.nn.utils.clip_grad_norm_(model.mae.parameters(), config.optimiser.clip_norm)
    trainer.scaler.step(trainer.optimiser)
    trainer.scaler.update()
    _update_average(trainer.average, model.mae, ema_decay(step, config.optimiser.ema_decay))
    return loss.detach()


def draw_indices(
    tokens: torch.Tensor, config: ObjectiveConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a step's visible (B, K) and decoded (B, Q) places, on the tokens' device."""
    ratio = draw_mask_ratio(config, generator)
    masks = random_masks(len(tokens), tokens.shape[1], ratio, generator)
    visible, hidden = split_indices(masks)
    count = max(1, round(hidden.shape[1] * config.decode_share))
    order = torch.rand(hidden.shape, generator=generator).argsort(dim=1)[:, :count]
    queries = hidden.gather(1, order)
    return visible.to(tokens.device), queries.to(tokens.device)


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


def _precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast: what the recipe says, or bf16, fp16 or fp32 by the device."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if config.run.precision != "auto":
        return named[config.run.precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _progress(name: str, quiet: bool) -> Any:
    def wrap(items: Iterable[int], total: int) -> Iterator[int]:
        return iter(tqdm(items, desc=name, total=total, unit="batch", disable=quiet))

    return wrap
