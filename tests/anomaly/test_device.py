import os
import re
import subprocess
import sys

import pytest
import torch

from anomaly.device import choose_device, give_back_memory, memory_of, share_cores, usable_cores
from anomaly.errors import ConfigError


def test_a_device_that_is_not_there_is_a_clear_error() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="want auto, cpu, cuda"):
        choose_device("abacus")


def test_memory_is_counted_and_given_back() -> None:
    read = memory_of(torch.device("cpu"))["resident"]
    give_back_memory()  # memory that earlier tests freed would be used again
    before = read()
    held = [
        bytearray(b"x" * 100_000) for _ in range(2000)
    ]  # below the size that is mapped by itself
    assert read() > before + 150e6
    del held
    assert give_back_memory()
    assert read() < before + 100e6


_SIXTEEN_THREADS = """
import ctypes, os, sys, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from anomaly.device import share_arenas
print(share_arenas())
together = threading.Barrier(16)
def hold():
    held = bytearray(50_000)
    together.wait(10)
threads = [threading.Thread(target=hold) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.parametrize("chosen", [None, "7"])
def test_threads_share_arenas_unless_a_user_chose(chosen: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    if chosen:
        environment["MALLOC_ARENA_MAX"] = chosen
    command = [sys.executable, "-c", _SIXTEEN_THREADS]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    arenas = len(re.findall(r"^Arena \d+:", ran.stderr, re.MULTILINE))
    assert (ran.stdout.strip(), arenas) == (("False", 7) if chosen else ("True", 2))


@pytest.mark.parametrize(
    ("device", "cores", "told", "wanted"),
    [
        ("cpu", 1, {}, (1, 1)),
        ("cpu", 2, {}, (2, 1)),
        ("cpu", 3, {}, (2, 1)),
        ("cpu", 8, {}, (2, 4)),
        ("cpu", 8, {"batches": 4}, (4, 2)),
        ("cpu", 8, {"batches": 1}, (1, 7)),
        ("cpu", 2, {"threads": 2}, (2, 2)),
        ("cpu", 2, {"batches": 8}, (8, 1)),
        ("cuda", 2, {"batches": 4}, (1, 1)),
        ("cuda", 16, {}, (1, 15)),
    ],
)
def test_cores_are_shared_between_batches(
    device: str, cores: int, told: dict[str, int], wanted: tuple[int, int]
) -> None:
    shared = share_cores(device, cores, **told)
    assert (shared.lanes, shared.threads) == wanted


def test_a_batch_knows_whether_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = share_cores("cpu", 2)
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def break_off() -> None:
        with cores.batch():
            assert cores.are_shared
            raise ValueError("broke off")

    with cores.batch():
        assert not cores.are_shared
        with pytest.raises(ValueError, match="broke off"):
            break_off()
        assert cores.are_shared  # it was a moment ago
        now += cores.settle_s
        assert not cores.are_shared


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
        torch.set_num_threads(2)
        choose_device()
        assert torch.get_num_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(1)
    assert 1 <= usable_cores() <= len(allowed)
