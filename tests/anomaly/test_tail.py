from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.conformal import Conformal
from anomaly.errors import CalibrationError
from anomaly.tail import Tail

Draw = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: dict[str, Draw] = {
    "gumbel": lambda generator, n: generator.gumbel(3, 0.4, n),
    "normal": lambda generator, n: generator.normal(3, 0.4, n),
    "lognormal": lambda generator, n: generator.lognormal(1, 0.3, n),
}


def each_alone(scores: np.ndarray) -> Conformal:
    return Conformal.fit(scores, [str(i) for i in range(len(scores))])


@pytest.mark.parametrize("count", [8, 20, 30])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_estimated_rate_is_about_met_and_its_interval_covers(shape: str, count: int) -> None:
    generator, draw = np.random.default_rng(1), SHAPES[shape]
    others = draw(generator, 20_000)
    realised, covered = [], []
    for _ in range(200):
        estimate = Tail.fit(each_alone(draw(generator, count))).estimate(0.05)
        share = float((others > estimate.threshold).mean())
        realised.append(share)
        covered.append(estimate.low <= share <= estimate.high)
    assert 0.01 <= np.mean(realised) <= 0.08
    if shape == "gumbel":
        assert np.mean(realised) == pytest.approx(0.05, abs=0.01)
        assert np.mean(covered) >= 0.9


@pytest.mark.parametrize("count", [8, 20, 30])
def test_one_odd_part_hardly_moves_the_threshold_and_is_named(count: int) -> None:
    scores = np.sort(np.random.default_rng(2).gumbel(3, 0.4, count))
    with_odd = np.append(scores[:-1], 30.0)
    plain = Tail.fit(each_alone(scores))
    odd = Tail.fit(each_alone(with_odd))
    assert odd.estimate(0.05).threshold == pytest.approx(plain.estimate(0.05).threshold, rel=1e-6)
    assert odd.odd(each_alone(with_odd)).tolist() == [False] * (count - 1) + [True]


def test_good_parts_are_seldom_called_odd() -> None:
    generator = np.random.default_rng(3)
    called = 0
    for _ in range(200):
        normals = each_alone(generator.gumbel(size=30))
        called += bool(Tail.fit(normals).odd(normals).any())
    assert called <= 20


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 5, width=32), min_size=4, max_size=40),
    st.floats(0.5, 4),
    st.floats(-3, 3),
)
def test_another_unit_of_the_score_changes_nothing(
    scores: list[float], factor: float, shift: float
) -> None:
    plain = Tail.fit(each_alone(np.array(scores)))
    scaled = Tail.fit(each_alone(factor * np.array(scores) + shift))
    expected = factor * plain.estimate(0.05).threshold + shift
    assert scaled.estimate(0.05).threshold == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_smaller_rate_has_a_higher_threshold() -> None:
    tail = Tail.fit(each_alone(np.random.default_rng(4).gumbel(size=12)))
    thresholds = [tail.estimate(rate).threshold for rate in (0.2, 0.1, 0.05, 0.01, 0.001)]
    assert thresholds == sorted(thresholds)
    assert tail.share_above(tail.location) == pytest.approx(1 - np.exp(-1))
    with pytest.raises(CalibrationError):
        tail.estimate(0)


def test_groups_count_once() -> None:
    scores = np.random.default_rng(5).gumbel(size=20)
    groups = [str(i) for i in range(20)]
    once = Tail.fit(Conformal.fit(scores, groups))
    thrice = Tail.fit(Conformal.fit(np.repeat(scores, 3), np.repeat(groups, 3).tolist()))
    assert (once.groups, thrice.groups) == (20, 20)
    assert thrice.estimate(0.05).threshold == pytest.approx(once.estimate(0.05).threshold, abs=0.2)


def test_equal_scores_are_no_error() -> None:
    estimate = Tail.fit(each_alone(np.full(10, 2.0))).estimate(0.05)
    assert estimate.threshold == pytest.approx(2.0, abs=1e-3)
