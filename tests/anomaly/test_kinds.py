"""Kinds of defects: named from few examples, and unknown where they are like none of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from anomaly.errors import ConfigError, ShapeError
from anomaly.kinds import (
    MOST_EXAMPLES,
    MOST_KINDS,
    UNKNOWN,
    UNKNOWN_BELOW,
    Examples,
    fit_kinds,
)
from anomaly.types import FloatArray

_WIDTH = 40


def like(centre: int, count: int, seed: int, noise: float = 0.15) -> FloatArray:
    """Unit vectors around an axis."""
    vectors = np.random.default_rng(seed).normal(scale=noise, size=(count, _WIDTH))
    vectors[:, centre] += 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def examples(count: int, kinds: int = 3, seed: int = 0) -> Examples:
    vectors = np.concatenate([like(kind, count, seed + kind) for kind in range(kinds)])
    names = tuple(f"kind {kind}" for kind in range(kinds) for _ in range(count))
    return Examples(vectors, names, tuple(map(str, range(len(names)))))


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_kinds_are_named_from_a_few_examples(count: int) -> None:
    head = fit_kinds(examples(count))
    for kind in range(3):
        names = [naming.kind for naming in head.name(like(kind, 50, 77 + kind))]
        assert names.count(f"kind {kind}") >= 40


def test_a_new_kind_is_unknown_and_known_ones_seldom_are() -> None:
    head = fit_kinds(examples(20))
    fresh = [naming.kind for naming in head.name(like(30, 100, 9))]
    assert fresh.count(UNKNOWN) >= 95
    familiar = [
        naming.kind for kind in range(3) for naming in head.name(like(kind, 200, 50 + kind))
    ]
    assert familiar.count(UNKNOWN) / len(familiar) <= UNKNOWN_BELOW + 0.06


def test_on_average_no_more_known_ones_are_unknown_than_stated() -> None:
    shares = []
    for seed in range(0, 300, 10):
        head = fit_kinds(examples(12, seed=seed))
        names = [
            naming.kind for k in range(3) for naming in head.name(like(k, 40, 5000 + seed + k))
        ]
        shares.append(names.count(UNKNOWN) / len(names))
    assert np.mean(shares) <= UNKNOWN_BELOW


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_examples_call_nothing_unknown(count: int) -> None:
    head = fit_kinds(examples(count, kinds=2))
    assert all(naming.kind != UNKNOWN for naming in head.name(like(30, 50, 3)))


def test_a_single_kind_is_named_or_unknown() -> None:
    head = fit_kinds(examples(20, kinds=1))
    assert [naming.kind for naming in head.name(like(0, 3, 99, noise=0.1))] == ["kind 0"] * 3
    assert head.name(like(30, 1, 99))[0].kind == UNKNOWN


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
@tries(max_examples=40, deadline=None)
def test_every_region_has_a_name_and_a_p_value(seed: int, count: int, kinds: int) -> None:
    generator = np.random.default_rng(seed)
    head = fit_kinds(examples(count, kinds, seed))
    for naming in head.name(generator.normal(size=(5, _WIDTH)).astype(np.float32)):
        assert 0 < naming.p <= 1
        assert (naming.kind == UNKNOWN) == (naming.p < UNKNOWN_BELOW)
        assert naming.kind in (*head.kinds, UNKNOWN)


def test_equal_examples_leave_nothing_to_divide_by() -> None:
    vectors = np.repeat(like(0, 1, 0), 6, axis=0)
    head = fit_kinds(Examples(vectors, ("a",) * 3 + ("b",) * 3, tuple("123456")))
    assert all(np.isfinite(naming.p) for naming in head.name(vectors))


def test_the_digest_is_of_what_is_learned_from_not_of_its_order() -> None:
    learned = examples(3)
    turned = Examples(learned.vectors[::-1].copy(), learned.kinds[::-1], learned.parts)
    assert turned.digest == learned.digest
    renamed = Examples(learned.vectors, ("other", *learned.kinds[1:]), learned.parts)
    assert renamed.digest != learned.digest


def test_the_newest_examples_of_the_commonest_kinds_are_learned_from() -> None:
    kinds = ["much"] * (MOST_EXAMPLES + 5) + [f"kind {i}" for i in range(MOST_KINDS + 5)]
    vectors = np.eye(len(kinds), dtype=np.float32)
    bounded = Examples(vectors, tuple(kinds), tuple(map(str, range(len(kinds))))).bounded()
    assert bounded.counts["much"] == MOST_EXAMPLES
    assert bounded.parts[0] == "5"
    assert len(bounded.counts) == MOST_KINDS


@pytest.mark.parametrize("kinds", [(), ("a", UNKNOWN)])
def test_nothing_to_learn_from_is_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="one example or more"):
        fit_kinds(Examples(np.zeros((len(kinds), 3), np.float32), kinds, kinds))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="vectors"):
        Examples(np.zeros((2, 3), np.float32), ("a",), ("1",))
    with pytest.raises(ShapeError, match="vectors"):
        fit_kinds(examples(2)).name(np.zeros((1, _WIDTH + 1), np.float32))
