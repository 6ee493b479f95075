import pytest

from service.engine import share_cores
from service.settings import Settings


@pytest.mark.parametrize(
    ("device", "cores", "told", "wanted"),
    [
        ("cpu", 1, {}, (1, 1)),
        ("cpu", 2, {}, (2, 1)),
        ("cpu", 4, {}, (1, 3)),
        ("cpu", 8, {"parallel_batches": 4}, (4, 2)),
        ("cpu", 2, {"parallel_batches": 1}, (1, 1)),
        ("cpu", 2, {"torch_threads": 2}, (2, 2)),
        ("cpu", 2, {"parallel_batches": 8}, (8, 1)),
        ("cuda", 2, {"parallel_batches": 4}, (1, 1)),
        ("cuda", 16, {}, (1, 15)),
    ],
)
def test_cores_are_shared_between_batches(
    device: str, cores: int, told: dict[str, int], wanted: tuple[int, int]
) -> None:
    settings = Settings(**told)  # type: ignore[arg-type]
    assert share_cores(settings, device, cores) == wanted
