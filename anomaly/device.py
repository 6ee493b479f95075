"""Which device to compute on, and how its cores are shared."""

import ctypes
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path

import torch

from anomaly.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; auto takes the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; want auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}, but torch sees no CUDA GPU; use 'auto' or 'cpu'")
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without blocking, from pinned memory, where the device is a GPU."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def memory_of(device: torch.device) -> dict[str, Callable[[], float]]:
    """Return what reads the bytes held on a device, by kind; on a CPU the resident memory, on Linux."""
    if device.type == "cuda":
        return {
            "allocated": lambda: float(torch.cuda.memory_allocated(device)),
            "reserved": lambda: float(torch.cuda.memory_reserved(device)),
        }
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return {}
    return {"resident": lambda: float(pages.read_text().split()[1]) * PAGESIZE}


def give_back_memory() -> bool:
    """Return freed memory to the system; False where the C library cannot.

    Images of many sizes in several threads leave glibc's arenas full of holes: 20,000 of them held 700 MB
    that nothing used (docs/LOG.md).
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return False
    trim(0)
    return True


def share_cores(
    device: str, cores: int, *, batches: int | None = None, threads: int | None = None
) -> tuple[int, int]:
    """Return how many batches to compute at once, and the threads of each; what is given holds.

    Two batches of one thread each keep two cores busy, where one batch would leave the second core to
    decoding alone (docs/LOG.md). With more cores one batch has them: it is done sooner. On a GPU buffers
    and graphs hold one batch.
    """
    lanes = (batches or (2 if cores == 2 else 1)) if device == "cpu" else 1
    each = cores - 1 if lanes == 1 else cores // lanes
    return lanes, threads or max(1, each)
