import pytest
import torch

from anomaly.device import choose_device, give_back_memory, memory_of
from anomaly.errors import ConfigError


def test_a_device_that_is_not_there_is_a_clear_error() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="want auto, cpu, cuda"):
        choose_device("abacus")


def test_memory_is_counted_and_given_back() -> None:
    read = memory_of(torch.device("cpu"))["resident"]
    give_back_memory()  # what tests before this one freed would be used again
    before = read()
    held = [
        bytearray(b"x" * 100_000) for _ in range(2000)
    ]  # below the size that is mapped by itself
    assert read() > before + 150e6
    del held
    assert give_back_memory()
    assert read() < before + 100e6
