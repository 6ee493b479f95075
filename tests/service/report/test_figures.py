import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from record.result import Feedback
from record.statistics import Counts, Spoken, statistics_of
from record.store import Filter, Store
from service.report.figures import (
    Figures,
    Share,
    control_chart,
    figures_of,
    middle_rank,
    people_of,
    psi_of,
    slice_width_s,
)
from tests.record.test_store import NOON, result

HOUR = timedelta(hours=1)


def figures(store: Store, until: datetime = NOON + timedelta(days=1)) -> Figures:
    with statistics_of(store, Filter(since=NOON, until=until)) as statistics:
        return figures_of(statistics, ZoneInfo("UTC"))


def test_the_interval_is_the_exact_one() -> None:
    """Clopper and Pearson's: the ends are where the binomial tails are 2.5 %."""
    share = Share(3, 50)
    for p, tail in ((share.low, range(3, 51)), (share.high, range(4))):
        mass = sum(math.comb(50, k) * p**k * (1 - p) ** (50 - k) for k in tail)
        assert mass == pytest.approx(0.025)
    assert (Share(0, 50).low, Share(50, 50).high) == (0.0, 1.0)
    assert Share(0, 50).high == pytest.approx(1 - 0.025 ** (1 / 50))
    assert Share(0, 0).value is None


def test_control_limits_follow_the_number_of_parts() -> None:
    counts = [Counts(100, 98, 0, 2), Counts(400, 360, 0, 40), Counts(500, 492, 0, 8), Counts()]
    spans = [(NOON + n * HOUR, NOON + (n + 1) * HOUR, c) for n, c in enumerate(counts)]
    chart = control_chart(spans, Counts(1000, 950, 0, 50))
    assert chart.centre == 0.05
    assert chart.width_s == 3600
    assert len(chart.slices) == 3  # no point of an hour without parts
    small, middle, large = chart.slices
    assert small.low == 0.0
    assert small.high == pytest.approx(0.05 + 3 * math.sqrt(0.05 * 0.95 / 100))
    assert large.low == pytest.approx(0.05 - 3 * math.sqrt(0.05 * 0.95 / 500))
    assert [part.side for part in chart.slices] == ["within", "above", "below"]
    assert chart.out == (middle, large)


def test_a_slice_of_few_parts_is_not_judged() -> None:
    spans = [(NOON, NOON + HOUR, Counts(19, 0, 0, 19)), (NOON + HOUR, NOON, Counts(981, 981))]
    assert control_chart(spans, Counts(1000, 981, 0, 19)).slices[0].side == "few"


def test_the_index_is_nothing_for_even_ranks_and_much_for_moved_ones() -> None:
    assert psi_of([100] * 10) == 0.0
    assert psi_of([4] * 10) is None
    moved = psi_of([550, *[50] * 9])
    expected = 0.45 * math.log(5.5) + 9 * -0.05 * math.log(0.5)
    assert moved == pytest.approx(expected - 9 / 1000, rel=0.01)


def test_the_middle_rank_is_read_within_its_tenth() -> None:
    assert middle_rank([10] * 10) == pytest.approx(0.5)
    assert middle_rank([100, *[0] * 9]) == pytest.approx(0.95)
    assert middle_rank([*[0] * 9, 100]) == pytest.approx(0.05)
    assert middle_rank([0, 0, 30, 10, *[0] * 6]) == pytest.approx(1 - (0.2 + 0.1 * 20 / 30))


def test_slices_are_some_tens_with_some_parts_in_them() -> None:
    shift = timedelta(hours=8)
    assert slice_width_s(shift, 100_000) == 15 * 60
    assert slice_width_s(shift, 300) == 3600
    assert slice_width_s(shift, 3) == 3600
    assert slice_width_s(timedelta(days=7), 100_000) == 8 * 3600
    assert slice_width_s(timedelta(days=3650), 10**6) == 102 * 86400
    assert slice_width_s(timedelta(0), 1) == 300


def test_people_are_counted_with_what_they_looked_at() -> None:
    spoken = [
        Spoken("NG", "confirmed_defect", 5),
        Spoken("NG", "false_alarm", 2),
        Spoken("WARN", "missed_defect", 1),
        Spoken("OK", "confirmed_good", 9),
    ]
    people = people_of(Counts(200, 160, 10, 30), spoken)
    assert (people.rejected, people.passed) == (Share(7, 30), Share(10, 170))
    assert (people.confirmed, people.false_alarms, people.missed, people.good) == (5, 2, 1, 9)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'results.db'}")


def test_the_figures_of_a_period_agree_with_each_other(store: Store) -> None:
    parts = [
        result(n, inspected_at=NOON + timedelta(minutes=n), lot=f"L{n % 40}", camera="c")
        for n in range(240)
    ]
    store.add(parts)
    for number, kind, defect in (
        (0, "confirmed_defect", "scratch"),
        (3, "confirmed_defect", None),
        (6, "false_alarm", None),
        (1, "missed_defect", "pore"),
    ):
        entry = Feedback(result_id=f"{number:032x}", created_at=NOON, kind=kind, defect=defect)
        store.add_feedback(entry)
    found = figures(store)
    assert found.totals.counts == Counts(240, ok=160, warn=0, ng=80)
    assert sum(part.ng.parts for part in found.chart.slices) == 240
    assert len(found.lots.rows) == 30
    assert found.lots.remaining is not None
    assert found.lots.remaining.counts.parts == 60
    assert found.lots.groups == 40
    pareto = found.pareto
    assert pareto.named == (("pore", 1), ("scratch", 1))
    assert (pareto.unjudged, pareto.nameless, pareto.other_names) == (77, 1, 0)
    assert pareto.total == 80  # 80 NG and a miss, less a false alarm
    assert found.people.passed == Share(1, 160)


def test_slices_end_where_the_period_ends(store: Store) -> None:
    store.add([result(n, inspected_at=NOON + timedelta(minutes=n)) for n in range(240)])
    found = figures(store, until=NOON + timedelta(minutes=100, seconds=30))
    assert found.totals.counts.parts == 101
    assert sum(part.ng.parts for part in found.chart.slices) == 101
    assert sum(len(drift.course) > 0 for drift in found.drifts) == 2


def test_slices_stand_on_local_hours(store: Store) -> None:
    store.add([result(n, inspected_at=NOON + timedelta(minutes=2 * n)) for n in range(240)])
    with statistics_of(store, Filter(since=NOON)) as statistics:
        found = figures_of(statistics, ZoneInfo("Asia/Kolkata"))  # half an hour aside
    first = found.chart.slices[0].since
    assert first.astimezone(ZoneInfo("Asia/Kolkata")).minute == 0
    assert first.astimezone(UTC).minute == 30
