"""The moving parts of a run, put together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from anomaly.model import AnomalyModel
from training.checkpoint import RunState
from training.config import TrainConfig
from training.tokens import TokenSource
from training.world import World


@dataclass(slots=True)
class Trainer:
    """The moving parts of a run."""

    config: TrainConfig
    model: AnomalyModel
    source: TokenSource
    world: World
    optimiser: torch.optim.Optimizer
    average: list[torch.Tensor]
    scaler: torch.amp.GradScaler
    network: Callable[..., torch.Tensor]  # the autoencoder, compiled or shared where it is to be
    at_once: int  # images that go through the autoencoder together

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        return RunState(self.model.mae, self.average, self.optimiser, self.scaler)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.target.mean.device


def new_trainer(
    config: TrainConfig, model: AnomalyModel, source: TokenSource, world: World
) -> Trainer:
    """Put the moving parts together."""
    settings, device = config.optimiser, model.target.mean.device
    share = world.share(settings.batch_size)
    optimiser = torch.optim.AdamW(
        [p for p in model.mae.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda",
    )
    fp16 = precision_of(config, device) == torch.float16
    network: torch.nn.Module = model.mae
    if config.run.compile:
        network = torch.compile(model.mae, dynamic=True)  # type: ignore[assignment]
    if world.size > 1:
        network = DistributedDataParallel(network)
    average = [p.detach().clone() for p in model.mae.parameters()]
    scaler = torch.amp.GradScaler(device.type, enabled=fp16)
    at_once = config.run.at_once or share.stop - share.start
    return Trainer(config, model, source, world, optimiser, average, scaler, network, at_once)


def precision_of(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast: what the recipe says, or bf16, fp16 or fp32 by the device."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if config.run.precision != "auto":
        return named[config.run.precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
