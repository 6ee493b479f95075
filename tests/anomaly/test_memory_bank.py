import pytest
import torch

from anomaly import memory_bank
from anomaly.memory_bank import Memory, nearest
from anomaly.types import Block


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_nearest_is_the_distance_to_the_closest_one(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank, "_PRODUCTS", 17 * at_once)
    generator = torch.Generator().manual_seed(0)
    cells, bank = (
        torch.randn(2, 30, 5, generator=generator),
        torch.randn(17, 5, generator=generator),
    )
    wanted = torch.cdist(cells, bank).amin(dim=2) / 5**0.5
    wanted = (wanted.square() + 1e-4).sqrt() - 0.01
    torch.testing.assert_close(nearest(cells, bank), wanted, atol=1e-5, rtol=1e-4)


def test_what_is_remembered_is_at_no_distance_and_few_cells_are_enough() -> None:
    memory = Memory([Block("a", 3), Block("b", 4, 2)], 10)
    first, second = torch.randn(6, 3), torch.randn(40, 4)
    memory.fit([first, second])
    near, far = memory([first[None], second[None, 10:] + 5])
    assert float(near.max()) < 1e-3
    assert float(far.min()) > 0.5
    assert memory.names == ("memory.a", "memory.b")
    assert set(memory.state_dict()) == {"banks.0", "banks.1"}
