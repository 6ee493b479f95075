"""The numbers of a report: shares with their intervals, control limits, Pareto, drift, people."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from scipy.special import betaincinv

from record.statistics import (
    Counts,
    Duration,
    Group,
    Ranks,
    Spoken,
    Statistics,
    Stream,
    Totals,
    Worst,
)

Side = Literal["within", "above", "below", "few"]
Moved = Literal["unknown", "no", "little", "much"]
_TAIL = 0.025  # on each side of a 95 % interval
FEW = 20  # parts of a slice that is not judged: the limits of so few say nothing
_FEW_RANKS = 50  # as `anomaly.drift`
_LITTLE, _MUCH = 0.1, 0.25  # population stability index, as `anomaly.drift` reads it
_MOST_SLICES, _LEAST_SLICES, _PARTS_PER_SLICE = 36, 8, 50
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WIDTHS_S = (5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, _DAY)
_MOST_GROUPS, _MOST_LOTS, _MOST_DEFECTS = 20, 30, 10
_MOST_STREAMS, _DRAWN_STREAMS, _MOST_WORST = 12, 4, 36


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `parts`, and the exact (Clopper-Pearson) 95 % interval of the true share."""

    count: int
    parts: int

    @property
    def value(self) -> float | None:
        """The share; None of nothing."""
        return self.count / self.parts if self.parts else None

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        if self.count == 0:
            return 0.0
        return float(betaincinv(self.count, self.parts - self.count + 1, _TAIL))

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        if self.count == self.parts:
            return 1.0
        return float(betaincinv(self.count + 1, self.parts - self.count, 1 - _TAIL))


@dataclass(frozen=True, slots=True)
class YieldRow:
    """One line of the table of yields; `name` is None of parts without one."""

    name: str | None
    counts: Counts

    @property
    def ng(self) -> Share:
        """The share of NG parts."""
        return Share(self.counts.ng, self.counts.parts)


@dataclass(frozen=True, slots=True)
class YieldTable:
    """Yields by camera or lot; `remaining` is all beyond the `rows`, of `groups` in all."""

    rows: tuple[YieldRow, ...]
    remaining: YieldRow | None
    total: YieldRow
    groups: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of the period: its NG share, and the 3-sigma limits for as many parts."""

    since: datetime
    until: datetime
    ng: Share
    low: float
    high: float
    side: Side


@dataclass(frozen=True, slots=True)
class ControlChart:
    """A p-chart: the NG share of all parts, and of each slice that has any."""

    centre: float
    slices: tuple[Slice, ...]
    width_s: int

    @property
    def out(self) -> tuple[Slice, ...]:
        """The slices beyond their limits."""
        return tuple(part for part in self.slices if part.side in ("above", "below"))


@dataclass(frozen=True, slots=True)
class Pareto:
    """Defects by name, the most frequent first.

    `unjudged` NG parts nobody spoke of, and `nameless` defects nobody named: together, they are
    what is not named yet. Parts that somebody called good are none of these.
    """

    named: tuple[tuple[str, int], ...]
    other_names: int
    unjudged: int
    nameless: int

    @property
    def unnamed(self) -> int:
        """What is not named yet."""
        return self.unjudged + self.nameless

    @property
    def total(self) -> int:
        """All of it."""
        return sum(count for _, count in self.named) + self.other_names + self.unnamed


@dataclass(frozen=True, slots=True)
class StreamDrift:
    """How one model's parts from one camera lie among its calibration's good parts.

    `rank` is the share of those that a middle part exceeds, one half while nothing changes; `psi`
    the population stability index of the ranks, None of too few parts; `course` the ranks by slice.
    """

    stream: Stream
    parts: int
    score: float | None
    rank: float
    psi: float | None
    course: tuple[tuple[datetime, datetime, float], ...] = ()

    @property
    def moved(self) -> Moved:
        """How to read the index."""
        if self.psi is None:
            return "unknown"
        return "much" if self.psi > _MUCH else "little" if self.psi > _LITTLE else "no"


@dataclass(frozen=True, slots=True)
class People:
    """What people who looked at parts said of them last."""

    rejected: Share  # looked at, of the NG parts
    passed: Share  # looked at, of the OK and WARN parts
    false_alarms: int
    confirmed: int
    missed: int
    good: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All numbers of a report."""

    totals: Totals
    cameras: YieldTable
    lots: YieldTable
    chart: ControlChart
    pareto: Pareto
    drifts: tuple[StreamDrift, ...]
    people: People
    durations: tuple[Duration, ...]
    worst: tuple[Worst, ...]

    @property
    def ng(self) -> Share:
        """The share of NG parts."""
        return Share(self.totals.counts.ng, self.totals.counts.parts)


def figures_of(statistics: Statistics, zone: ZoneInfo) -> Figures:
    """Ask for all numbers. Raises `StoreError`."""
    totals = statistics.totals()
    slices = list(_slices(totals, zone))
    parts = [statistics.during(since, until) for since, until in slices]
    spoken = statistics.spoken()
    return Figures(
        totals=totals,
        cameras=_table(statistics.groups("camera", _MOST_GROUPS), totals, totals.cameras),
        lots=_table(statistics.groups("lot", _MOST_LOTS), totals, totals.lots),
        chart=control_chart(
            [(*span, part.counts()) for span, part in zip(slices, parts, strict=True)],
            totals.counts,
        ),
        pareto=_pareto(statistics, totals.counts, spoken),
        drifts=tuple(_drifts(statistics, slices, parts)),
        people=people_of(totals.counts, spoken),
        durations=tuple(statistics.durations(_MOST_STREAMS)),
        worst=tuple(statistics.worst(_MOST_WORST)),
    )


def control_chart(
    slices: Sequence[tuple[datetime, datetime, Counts]], counts: Counts
) -> ControlChart:
    """Hold each slice's NG share against the limits that as many parts of the whole would keep."""
    centre = counts.ng / counts.parts if counts.parts else 0.0
    width_s = round((slices[0][1] - slices[0][0]).total_seconds()) if slices else 0
    charted = [_charted(since, until, part, centre) for since, until, part in slices if part.parts]
    return ControlChart(centre, tuple(charted), width_s)


def _charted(since: datetime, until: datetime, counts: Counts, centre: float) -> Slice:
    reach = 3 * math.sqrt(centre * (1 - centre) / counts.parts)
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    share = counts.ng / counts.parts
    side: Side = "above" if share > high else "below" if share < low else "within"
    is_few = counts.parts < FEW
    return Slice(since, until, Share(counts.ng, counts.parts), low, high, "few" if is_few else side)


def psi_of(bins: Sequence[int]) -> float | None:
    """Population stability index of ranks against evenly spread ones, less what is chance."""
    parts, count = sum(bins), len(bins)
    if parts < _FEW_RANKS:
        return None
    shares = [(number + 0.5) / (parts + 0.5 * count) for number in bins]
    index = sum((share - 1 / count) * math.log(share * count) for share in shares)
    return max(0.0, index - (count - 1) / parts)


def middle_rank(bins: Sequence[int]) -> float:
    """Return the median of 1 - p, from parts by tenth of p, evenly spread within a tenth."""
    half, below = sum(bins) / 2, 0
    for number, count in enumerate(bins):
        if count and below + count >= half:
            return 1 - (number + (half - below) / count) / len(bins)
        below += count
    return 0.5


def people_of(counts: Counts, spoken: Sequence[Spoken]) -> People:
    """Sum up what people said."""
    by_kind: dict[str, int] = {}
    rejected = passed = 0
    for group in spoken:
        by_kind[group.kind] = by_kind.get(group.kind, 0) + group.parts
        if group.verdict == "NG":
            rejected += group.parts
        else:
            passed += group.parts
    return People(
        rejected=Share(rejected, counts.ng),
        passed=Share(passed, counts.parts - counts.ng),
        false_alarms=by_kind.get("false_alarm", 0),
        confirmed=by_kind.get("confirmed_defect", 0),
        missed=by_kind.get("missed_defect", 0),
        good=by_kind.get("confirmed_good", 0),
    )


def _table(groups: Sequence[Group], totals: Totals, count: int) -> YieldTable:
    rows = tuple(YieldRow(group.name, group.counts) for group in groups)
    left = totals.counts
    for row in rows:
        left = left.less(row.counts)
    nameless = any(row.name is None for row in rows)
    remaining = YieldRow(None, left) if left.parts else None
    return YieldTable(rows, remaining, YieldRow(None, totals.counts), count + nameless)


def _pareto(statistics: Statistics, counts: Counts, spoken: Sequence[Spoken]) -> Pareto:
    defects = statistics.defects(_MOST_DEFECTS)
    named, listed = statistics.named_defects(), sum(number for _, number in defects)
    people = people_of(counts, spoken)
    return Pareto(
        named=tuple(defects),
        other_names=named - listed,
        unjudged=counts.ng - people.rejected.count,
        nameless=people.confirmed + people.missed - named,
    )


def _drifts(
    statistics: Statistics,
    slices: Sequence[tuple[datetime, datetime]],
    parts: Sequence[Statistics],
) -> Iterator[StreamDrift]:
    by_slice: list[dict[Stream, Ranks]] = [
        {ranks.stream: ranks for ranks in part.ranks(_MOST_STREAMS)} for part in parts
    ]
    for number, ranks in enumerate(statistics.ranks(_MOST_STREAMS)):
        course = [
            (since, until, middle_rank(ranked[ranks.stream].bins))
            for (since, until), ranked in zip(slices, by_slice, strict=True)
            if number < _DRAWN_STREAMS and ranks.stream in ranked
        ]
        yield StreamDrift(
            stream=ranks.stream,
            parts=ranks.parts,
            score=statistics.median_score(ranks.stream),
            rank=middle_rank(ranks.bins),
            psi=psi_of(ranks.bins),
            course=tuple(course),
        )


def _slices(totals: Totals, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """Cut the time in which there were parts: on whole hours and the like, some tens of slices."""
    if totals.first is None or totals.last is None:
        return
    width = timedelta(seconds=slice_width_s(totals.last - totals.first, totals.counts.parts))
    midnight = totals.first.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = midnight.astimezone(totals.first.tzinfo)
    since = midnight + (totals.first - midnight) // width * width
    while since <= totals.last:
        yield since, since + width
        since += width


def slice_width_s(span: timedelta, parts: int) -> int:
    """Return how long a slice is: enough parts in it to tell something, and not too many slices."""
    seconds = span.total_seconds()
    for_parts = seconds * _PARTS_PER_SLICE / max(parts, 1)
    shortest_s = max(seconds / _MOST_SLICES, min(for_parts, seconds / _LEAST_SLICES))
    fitting = next((width for width in _WIDTHS_S if width >= shortest_s), None)
    return fitting or math.ceil(shortest_s / _DAY) * _DAY
