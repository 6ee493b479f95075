"""What is trained and how fast: frozen parts, layer decay, optimisers, the learning rate."""

import math
from typing import Any

import torch
from timm.optim._param_groups import param_groups_layer_decay as by_layer
from timm.optim.lars import Lars

from supervised.network import SupervisedNetwork
from training.finetune.config import FinetuneOptimiser, TuneConfig

_UNDECAYED = ("encoder.position", "encoder.class_token")


def freeze(network: SupervisedNetwork, config: TuneConfig) -> None:
    """Leave what the recipe trains trainable, and let residual branches be skipped there."""
    encoder = network.encoder
    if config.train == "head":
        encoder.train_last(0)
    elif config.train == "last":
        encoder.train_last(min(config.blocks, encoder.depth))
    if config.train != "head":
        encoder.drop_paths(config.drop_path)


def training_mode(network: SupervisedNetwork) -> None:
    """Switch to training; blocks that are frozen stay as they are in use."""
    network.train()
    for block in network.encoder.blocks:
        if not any(p.requires_grad for p in block.parameters()):
            block.eval()


def new_optimiser(
    network: SupervisedNetwork, tune: TuneConfig, config: FinetuneOptimiser
) -> torch.optim.Optimizer:
    """Build the optimiser over what is trained; each group's `lr_scale` is its layer's."""
    groups: list[dict[str, Any]] = by_layer(
        network,
        weight_decay=config.weight_decay,
        no_weight_decay_list=_UNDECAYED,
        layer_decay=tune.layer_decay,
    )
    rate = config.learning_rate
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999))
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum)
    for group in groups:  # as the official code: vectors take plain steps
        group["always_adapt"] = group["params"][0].ndim > 1
    optimiser: torch.optim.Optimizer = Lars(groups, lr=rate, momentum=config.momentum)
    return optimiser


def set_rate(
    optimiser: torch.optim.Optimizer, step: int, steps: int, config: FinetuneOptimiser
) -> float:
    """Set every layer's learning rate for a step; returns the head's."""
    warmup = round(steps * config.warmup_epochs / config.epochs)
    if step < warmup:
        share = (step + 1) / warmup
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    rate = config.learning_rate * share
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate
