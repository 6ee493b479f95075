from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from anomaly.config import from_dict, to_dict
from anomaly.device import choose_device
from anomaly.errors import ConfigError
from anomaly.model import ModelConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    many: tuple[str, ...] = ()
    maybe: int | None = None
    on: bool = False


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    count: int = 1


def test_a_round_trip_is_the_identity() -> None:
    config = Outer(Inner(1.5, "b", (3, 4), ("x", "y"), 7, True), 9)
    assert from_dict(Outer, to_dict(config)) == config
    assert from_dict(ModelConfig, to_dict(ModelConfig())) == ModelConfig()


def test_integers_may_stand_for_floats_and_lists_for_tuples() -> None:
    built = from_dict(Outer, {"inner": {"rate": 2, "pair": [5, 6], "maybe": None}})
    assert built.inner.rate == 2.0
    assert isinstance(built.inner.rate, float)
    assert built.inner.pair == (5, 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nope": 1}, r"unknown key 'nope'; known here: count, inner"),
        ({"inner": {"rat": 1}}, r"unknown key 'inner\.rat'"),
        ({"inner": 3}, r"inner is 3; want a table"),
        ({"count": "many"}, r"count is 'many'; want int"),
        ({"count": True}, r"count is True; want int"),
        ({"count": 1.5}, r"want int"),
        ({"inner": {"kind": "c"}}, r"inner\.kind is 'c'; want one of \['a', 'b'\]"),
        ({"inner": {"pair": [1]}}, r"inner\.pair has 1 values; want 2"),
        ({"inner": {"pair": [1, "x"]}}, r"inner\.pair\[1\]"),
        ({"inner": {"many": "xyz"}}, r"want a list"),
        ({"inner": {"on": 1}}, r"want bool"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, values)


def test_a_missing_value_is_named() -> None:
    @dataclass(frozen=True)
    class Needs:
        value: int

    with pytest.raises(ConfigError, match="value"):
        from_dict(Needs, {})


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="want auto"):
        choose_device("quantum")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no CUDA"):
            choose_device("cuda")
