"""Which device to compute on, and how its cores are shared."""

import contextlib
import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from mmap import PAGESIZE
from pathlib import Path

import joblib
import torch

from anomaly.errors import ConfigError

_M_ARENA_MAX = -8  # of malloc.h
# With these oneDNN leaves units for matrices alone, whatever the processor has.
_SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; auto takes the GPU where there is one.

    This also limits torch to the cores that this process may use: torch knows nothing of a
    container's quota, and sixteen threads with the time of two only stop each other.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
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
    """Return functions that read the bytes held on a device, by kind.

    On a CPU it is the resident memory, on Linux only.
    """
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

    Images of many sizes in several threads leave glibc's arenas full of holes: 20,000 of them held
    700 MB that nothing used (docs/LOG.md).
    """
    trim = _from_glibc("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def share_arenas() -> bool:
    """Limit glibc to one arena a core, at least two; False without glibc or where a user set it.

    By default it makes eight a core, so that threads do not wait for each other, and each arena
    keeps some of the memory that passes through it: a quarter of a gigabyte after twenty versions
    of a model (docs/LOG.md). Threads that have an arena keep it, so this comes before they start.
    """
    set_option = _from_glibc("mallopt")
    if set_option is None or "MALLOC_ARENA_MAX" in os.environ:
        return False
    return bool(set_option(_M_ARENA_MAX, max(2, usable_cores())))


def _from_glibc(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
    return function


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, at most its container's quota."""
    return int(joblib.cpu_count())


def has_matrix_units() -> bool:
    """Whether this processor has units for bfloat16 matrices, and may use them."""
    if any(os.environ.get(name, "").upper() not in ("", "DEFAULT", "ALL") for name in _SWITCHES):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") and capabilities.get("amx_tile"))


class Cores:
    """How the cores of a CPU are shared: `lanes` batches at once have `threads` each.

    The caller announces each batch with `batch`. A lone batch may have all threads, but not as soon
    as another has ended: under load there is always another, and the lone one's threads would take
    its core.
    """

    settle_s = 1.0

    def __init__(self, lanes: int, threads: int) -> None:
        self.lanes = lanes
        self.threads = threads
        self._batches = 0
        self._shared_at = -math.inf
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Count a batch for as long as it is computed."""
        with self._lock:
            self._batches += 1
            if self._batches > 1:
                self._shared_at = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._batches -= 1

    @property
    def are_shared(self) -> bool:
        """Whether several batches are computed at once, or were a moment ago."""
        return self._batches > 1 or time.monotonic() - self._shared_at < self.settle_s


def share_cores(
    device: str, cores: int, *, batches: int | None = None, threads: int | None = None
) -> Cores:
    """Decide how many batches to compute at once, and the threads of each; given numbers hold.

    Two batches on half the cores each keep them busier than one on all (docs/LOG.md). On a GPU
    buffers and graphs hold one batch.
    """
    lanes = (batches or min(2, cores)) if device == "cpu" else 1
    threads_each = cores - 1 if lanes == 1 else cores // lanes
    return Cores(lanes, threads or max(1, threads_each))
