"""Checkpoints: one safetensors file, written whole or not at all. No pickle.

Only weights, their average and the optimiser's moments are stored: batches, masks and the schedule
are functions of the step (`training.schedule`), so a resumed run goes on as if never stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from anomaly.config import to_dict
from training.config import TrainConfig
from training.errors import NotWritten, ResumeError

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def fingerprint(config: TrainConfig, images: Any) -> str:
    """Identify what must not change between a run and its resumption: the recipe and the images."""
    values = to_dict(config)
    values["run"] = {"seed": config.run.seed}
    described = json.dumps([values, images], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunState:
    """What changes from step to step: weights, their average, moments, the fp16 loss scale."""

    model: nn.Module
    average: Sequence[torch.Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(path: Path, step: int, state: RunState, fingerprint: str) -> None:
    """Write the state after `step` steps; the previous checkpoint stays until this one is whole."""
    weights = state.model.state_dict().items()
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in weights}
    for index, value in enumerate(state.average):
        tensors[f"average.{index}"] = value.cpu().contiguous()
    for index, moments in state.optimiser.state_dict()["state"].items():
        for name in _MOMENTS:
            tensors[f"optimiser.{index}.{name}"] = moments[name].detach().cpu().contiguous()
    metadata = {
        "step": str(step),
        "fingerprint": fingerprint,
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    write_whole(path, save(tensors, metadata=metadata))


def check_run(path: Path, fingerprint: str) -> None:
    """Raise `ResumeError` where a checkpoint is damaged or belongs to another recipe or data."""
    with _opened(path, fingerprint):
        pass


@contextmanager
def _opened(path: Path, fingerprint: str) -> Iterator[Any]:
    """Open a checkpoint that belongs to this run; its tensors are read when they are asked for."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                raise ResumeError(
                    f"the checkpoint {path} belongs to another recipe or other images; train "
                    "without --resume to start anew, or give the same recipe and data"
                )
            yield file
    except (SafetensorError, OSError) as error:
        raise ResumeError(
            f"the checkpoint {path} cannot be read: {error}; train without --resume to start anew"
        ) from error


def load_checkpoint(path: Path, state: RunState, fingerprint: str) -> int:
    """Restore the state and return how many steps were done.

    Raises `ResumeError` when the file is damaged or belongs to another recipe or data.
    """
    with _opened(path, fingerprint) as file:
        stored = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state.model.load_state_dict(_part(tensors, "model."))
    for index, value in enumerate(state.average):
        value.copy_(tensors[f"average.{index}"])
    state.optimiser.load_state_dict(_optimiser_state(state.optimiser, tensors))
    state.scaler.load_state_dict(json.loads(stored["scaler"]))
    return int(stored["step"])


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the place and rename over it; raises `NotWritten`, leaving what was there."""
    staging = path.with_name(f".{path.name}.tmp")
    try:
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise NotWritten(
            f"could not write {path}: {error.strerror or error}; what was there before is "
            "untouched. Free some space or choose another place, then run the command again"
        ) from error


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimiser_state(
    optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _part(tensors, "optimiser.").items():
        index, moment = name.split(".")
        state.setdefault(int(index), {})[moment] = value
    return {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
