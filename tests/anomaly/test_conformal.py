from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly.conformal import Conformal, left_out_rate, share_above, usual_rate
from anomaly.errors import CalibrationError


def at_a_tenth(normals: Conformal) -> float:
    return normals.threshold(0.1)


scores_and_groups = st.lists(
    st.tuples(st.floats(-5, 5, width=32), st.integers(0, 8)), min_size=2, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(scores_and_groups, st.floats(0.01, 0.9), st.floats(-6, 6, width=32))
def test_rejection_and_p_value_agree(
    rows: list[tuple[float, int]], rate: float, score: float
) -> None:
    conformal = Conformal.fit(np.array([s for s, _ in rows]), [str(g) for _, g in rows])
    p_value = conformal.p_value(score)
    assert 1 / (conformal.groups + 1) - 1e-9 <= p_value <= 1
    if rate >= conformal.smallest_rate and abs(p_value - rate) > 1e-6:
        assert (score > conformal.threshold(rate)) == (p_value <= rate)


@given(scores_and_groups)
def test_a_group_counts_once_however_many_its_images(rows: list[tuple[float, int]]) -> None:
    scores, groups = np.array([s for s, _ in rows]), [str(g) for _, g in rows]
    once = Conformal.fit(scores, groups)
    twice = Conformal.fit(np.repeat(scores, 3), np.repeat(groups, 3).tolist())
    assert once.groups == twice.groups == len(set(groups))
    for score in (-1.0, 0.0, 2.5):
        plain = (replace(fitted, is_smooth=False).p_value(score) for fitted in (once, twice))
        assert next(plain) == pytest.approx(next(plain), abs=1e-5)
        if np.abs(scores - score).min() < 1e-6:
            continue  # below the lowest score p jumps to 1, and weights are rounded
        assert once.p_value(score) == pytest.approx(twice.p_value(score), abs=1e-5)


def test_ungrouped_p_values_are_the_textbook_ones() -> None:
    fitted = Conformal.fit(np.arange(99.0), [str(i) for i in range(99)])
    conformal = replace(fitted, is_smooth=False)
    assert conformal.p_value(98.5) == pytest.approx(0.01)
    assert conformal.p_value(49.0) == pytest.approx(0.51)
    assert conformal.threshold(0.01) == 98.0
    assert conformal.threshold(0.05) == 94.0


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_senseless_rates_are_refused(rate: float) -> None:
    with pytest.raises(CalibrationError, match="makes no sense"):
        Conformal.fit(np.arange(10.0), list(map(str, range(10)))).threshold(rate)


@pytest.mark.parametrize("is_smooth", [True, False])
@pytest.mark.parametrize(("groups", "rate"), [(30, 0.05), (99, 0.01), (199, 0.05), (20, 0.01)])
def test_expected_false_alarms_cover_what_happens(
    groups: int, rate: float, *, is_smooth: bool
) -> None:
    generator = np.random.default_rng(0)
    names = [str(i) for i in range(groups)]
    inside, total, stated = 0, 0, 0.0
    for _ in range(400):
        fitted = Conformal.fit(generator.normal(size=groups), names)
        conformal = replace(fitted, is_smooth=is_smooth)
        rejected = int((generator.normal(size=1000) > conformal.threshold(rate)).sum())
        expected = conformal.expected(rate)
        inside += expected.low <= rejected <= expected.high
        total += rejected
        stated += expected.mean
    assert inside / 400 >= 0.93  # 95 %, less what 400 draws may miss
    if is_smooth:  # it rejects a little less than it states, where few groups lie above
        assert 0.85 * stated <= total <= 1.05 * stated
    else:
        assert total == pytest.approx(stated, rel=0.1)
    if conformal.smallest_rate <= rate:
        assert stated / 400 <= 1000 * rate + 1e-6


def test_rates_count_groups_and_leave_each_out() -> None:
    scores = np.arange(100.0)
    groups = [str(i) for i in range(100)]
    assert share_above(scores, groups, 89.0) == pytest.approx(0.1)
    # Without itself, each of the ten highest is judged by a threshold of the other 99.
    assert left_out_rate(scores, groups, at_a_tenth) == pytest.approx(0.1)
    crowd = np.append(scores, np.full(900, 99.0))
    assert share_above(crowd, [*groups, *["99"] * 900], 89.0) == pytest.approx(0.1)


def test_left_out_rates_keep_what_is_stated() -> None:
    generator = np.random.default_rng(1)
    names = [str(i // 3) for i in range(240)]
    found = [left_out_rate(generator.normal(size=240), names, at_a_tenth) for _ in range(20)]
    assert 0.05 <= np.mean(found) <= 0.1


def realised(groups: int, members: int, rate: float, *, within: float, is_smooth: bool) -> float:
    """Share of new groups' images above the threshold; `within` is a group's own spread."""
    generator = np.random.default_rng(3)
    names = [str(i) for i in range(groups) for _ in range(members)]
    rejected = []
    for _ in range(300):
        levels = generator.exponential(size=(groups + 200, 1))
        scores = levels + within * generator.exponential(size=(groups + 200, members))
        fitted = Conformal.fit(scores[:groups].ravel(), names)
        threshold = replace(fitted, is_smooth=is_smooth).threshold(rate)
        rejected.append(float((scores[groups:] > threshold).mean()))
    return float(np.mean(rejected))


@pytest.mark.parametrize("within", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(("groups", "rate"), [(27, 0.05), (41, 0.05), (149, 0.01)])
def test_the_smooth_rule_wastes_less_and_keeps_what_is_stated(
    groups: int, rate: float, within: float
) -> None:
    plain = realised(groups, 5, rate, within=within, is_smooth=False)
    smooth = realised(groups, 5, rate, within=within, is_smooth=True)
    assert plain < smooth <= 1.03 * rate  # a few hundred draws may miss by that much


def test_a_smooth_threshold_lies_between_scores_and_p_values_follow() -> None:
    fitted = Conformal.fit(np.arange(19.0), [str(i) for i in range(19)])  # a twentieth each
    assert fitted.threshold(0.05) == 18.0
    assert fitted.threshold(0.075) == pytest.approx(17.5)
    assert fitted.threshold(0.1) == 17.0
    assert fitted.p_value(17.5) == pytest.approx(0.075)
    assert fitted.p_value(40.0) == pytest.approx(0.05)
    assert fitted.p_value(-1.0) == 1.0
    assert fitted.expected_above(17.5).mean == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("groups", "rate"), [(2, 0.1), (29, 0.1), (59, 0.05), (99, 0.03), (299, 0.01), (5000, 0.01)]
)
def test_without_a_stated_rate_the_number_of_parts_decides(groups: int, rate: float) -> None:
    assert usual_rate(groups) == pytest.approx(rate)
    assert groups < 9 or usual_rate(groups) >= 1 / (groups + 1)  # certified
