"""The moving parts of a run, put together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from anomaly.device import has_matrix_units
from anomaly.model import AnomalyModel
from training.checkpoint import RunState
from training.config import TrainConfig
from training.tokens import TokenSource
from training.working_copy import WorkingCopy
from training.world import ALONE, World


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
    precision: torch.dtype  # of products
    network: Callable[..., torch.Tensor]  # the autoencoder, compiled, shared or in bfloat16
    at_once: int  # images that go through the autoencoder together
    working: WorkingCopy | None = None  # where the autoencoder computes in bfloat16 on a CPU

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
    precision = precision_of(config, device, world)
    working = None
    if device.type == "cpu" and precision == torch.bfloat16 and world.size == 1:
        working = WorkingCopy(model.mae)
    optimiser = torch.optim.AdamW(
        [p for p in model.mae.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda" or working is not None,
    )
    network: torch.nn.Module = model.mae if working is None else working.network
    if config.run.compile:
        network = torch.compile(network, dynamic=True)  # type: ignore[assignment]
    if world.size > 1:
        network = DistributedDataParallel(network)
    average = [p.detach().clone() for p in model.mae.parameters()]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    at_once = config.run.at_once or share.stop - share.start
    return Trainer(
        config,
        model,
        source,
        world,
        optimiser,
        average,
        scaler,
        precision,
        network,
        at_once,
        working,
    )


def precision_of(config: TrainConfig, device: torch.device, world: World = ALONE) -> torch.dtype:
    """Return the dtype of products: what the recipe says, or bf16, fp16 or fp32 by the device.

    On a CPU that is bf16 where the processor has units for it and one process trains.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if config.run.precision != "auto":
        return named[config.run.precision]
    if device.type != "cuda":
        halves = device.type == "cpu" and world.size == 1 and has_matrix_units()
        return torch.bfloat16 if halves else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
