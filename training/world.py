"""The processes of a run: one, or as many as `torchrun` started.

Knows torch.distributed, and nothing of models. Every process draws what all of them see at a step
and takes its share, so that the number of processes changes neither the batch nor the masks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from anomaly.device import choose_device
from training.errors import DataError


@dataclass(frozen=True, slots=True)
class World:
    """This process: `rank` of `size` in all, `local_rank` of `local_size` on this `machine`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    machine: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Return this process's part of a batch; all parts are of one size.

        Raises `DataError` when the batch cannot be shared evenly.
        """
        if batch_size % self.size:
            raise DataError(
                f"a batch of {batch_size} cannot be shared evenly by {self.size} processes; set "
                f"optimiser.batch_size to a multiple of {self.size}"
            )
        share_size = batch_size // self.size
        return slice(self.rank * share_size, (self.rank + 1) * share_size)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, number: int) -> int:
        """Give every process the first one's number."""
        if self.size == 1:
            return number
        box = torch.tensor(number, device=_device_of_group())
        dist.broadcast(box, src=0)
        return int(box)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


def _device_of_group() -> torch.device:
    nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def device_of(name: str, world: World) -> torch.device:
    """Choose this process's device: its own GPU where a machine has several processes."""
    device = choose_device(name)
    if device.type == "cuda" and world.local_size > 1:
        return torch.device("cuda", world.local_rank)
    return device


@contextmanager
def shared_file(path: Path, size: int, world: World) -> Iterator[Path]:
    """Give one machine's processes a file of zeros while the block runs; it takes no room at first.

    Once the first process leaves the block, the file has no name; a process that mapped it keeps
    it.
    """
    if world.local_rank == 0:
        with path.open("wb") as file:
            file.truncate(size)
    world.wait()
    try:
        yield path
    finally:
        if world.local_rank == 0:
            path.unlink(missing_ok=True)


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """Join the processes that `torchrun` started; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    world = World(*(int(os.environ[name]) for name in names))
    device = device_of(device_name, world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()
