"""From numbers to where they stand in a chart, in the units of its SVG. Draws nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.report.figures import ControlChart, Pareto, Side, Slice, StreamDrift
from service.report.wording import Wording

WIDTH, LEFT, RIGHT = 720, 64, 24
_TOP = 14
_CHART_HEIGHT, _DRIFT_HEIGHT = 230, 120
_BAR, _BAR_STEP, _BAR_LEFT, _BAR_RIGHT = 20, 30, 190, 130
_MOST_LABELS = 8
_STEPS = (1, 2, 2.5, 5, 10)
_LABEL_WIDTHS_S = (900, 1800, 3600, 7200, 14400, 21600, 43200)
_DAY = timedelta(days=1)
_LONGEST_NAME = 28  # signs of a bar's name; the table has all of it


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis, where along it, and the date where another day begins."""

    at: float
    label: str
    day: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a chart, and what it says when it is pointed at."""

    x: float
    y: float
    side: Side
    title: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """Places of a chart over time: `limits` are the stepped lines of both limits."""

    height: int
    bottom: float
    centre: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    line: str
    upper: str = ""
    lower: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the Pareto chart; `cumulated` is the share of this and all before it."""

    y: float
    width: float
    name: str
    label: str
    is_unnamed: bool


@dataclass(frozen=True, slots=True)
class BarChart:
    """Places of bars below each other."""

    height: int
    left: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class _TimeAxis:
    since: datetime
    until: datetime

    def x(self, moment: datetime) -> float:
        share = (moment - self.since) / (self.until - self.since)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def middle(self, since: datetime, until: datetime) -> float:
        return self.x(since + (until - since) / 2)


def control_places(chart: ControlChart, wording: Wording) -> LineChart:
    """Place a p-chart."""
    axis = _TimeAxis(chart.slices[0].since, chart.slices[-1].until)
    judged = [part for part in chart.slices if part.side != "few"] or chart.slices
    highest = max(
        chart.centre, *(part.ng.value or 0.0 for part in chart.slices), *(p.high for p in judged)
    )
    top, ticks = _scale(min(1.0, highest))
    bottom = float(_CHART_HEIGHT - 34)

    def y(share: float) -> float:
        return round(bottom - min(1.0, share / top) * (bottom - _TOP), 1)

    dots = tuple(
        Dot(
            axis.middle(part.since, part.until),
            y(part.ng.value or 0.0),
            part.side,
            slice_title(part, wording),
        )
        for part in chart.slices
    )
    return LineChart(
        height=_CHART_HEIGHT,
        bottom=bottom,
        centre=y(chart.centre),
        x_ticks=_time_ticks(axis, wording),
        y_ticks=tuple(Tick(y(tick), wording.share(tick, _digits(ticks))) for tick in ticks),
        dots=dots,
        line=_line([(dot.x, dot.y) for dot in dots]),
        upper=_steps([(axis.x(p.since), axis.x(p.until), y(p.high)) for p in chart.slices]),
        lower=_steps([(axis.x(p.since), axis.x(p.until), y(p.low)) for p in chart.slices]),
    )


def slice_title(part: Slice, wording: Wording) -> str:
    """Say in words what a point of a p-chart is."""
    return wording.text(
        "slice_title",
        since=wording.moment(part.since),
        until=wording.clock(part.until),
        ng=part.ng.count,
        parts=part.ng.parts,
        share=wording.share(part.ng.value),
        side=wording.text(f"side_{part.side}"),
    )


def drift_places(drift: StreamDrift, chart: ControlChart, wording: Wording) -> LineChart:
    """Place the ranks of a stream's middle parts over the time that a p-chart shows."""
    axis = _TimeAxis(chart.slices[0].since, chart.slices[-1].until)
    bottom = float(_DRIFT_HEIGHT - 30)

    def y(share: float) -> float:
        return round(bottom - share * (bottom - _TOP), 1)

    dots = tuple(
        Dot(
            axis.middle(since, until),
            y(rank),
            "within",
            f"{wording.moment(since)}–{wording.clock(until)}: {wording.share(rank, 0)}",
        )
        for since, until, rank in drift.course
    )
    return LineChart(
        height=_DRIFT_HEIGHT,
        bottom=bottom,
        centre=y(0.5),
        x_ticks=_time_ticks(axis, wording),
        y_ticks=tuple(Tick(y(share), wording.share(share, 0)) for share in (0.0, 0.5, 1.0)),
        dots=dots,
        line=_line([(dot.x, dot.y) for dot in dots]),
    )


def pareto_places(pareto: Pareto, wording: Wording) -> BarChart:
    """Place a Pareto chart's bars; what is not named yet comes last, whatever its size."""
    rows = [(name, count, False) for name, count in pareto.named]
    if pareto.other_names:
        rows.append((wording.text("pareto_others"), pareto.other_names, False))
    if pareto.unnamed:
        rows.append((wording.text("pareto_unnamed"), pareto.unnamed, True))
    longest = max((count for _, count, _ in rows), default=1)
    room = WIDTH - _BAR_LEFT - _BAR_RIGHT
    bars = tuple(
        Bar(
            y=float(_TOP + number * _BAR_STEP),
            width=round(max(1.0, count / longest * room), 1),
            name=name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…",
            label=f"{wording.integer(count)} ({wording.share(count / pareto.total, 1)})",
            is_unnamed=is_unnamed,
        )
        for number, (name, count, is_unnamed) in enumerate(rows)
    )
    return BarChart(_TOP + len(bars) * _BAR_STEP, _BAR_LEFT, bars)


def _scale(highest: float) -> tuple[float, list[float]]:
    """Return where an axis ends, and four or five round numbers on it."""
    rough = max(highest, 1e-4) * 1.05 / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in _STEPS if factor * size >= rough * (1 - 1e-9))
    count = math.ceil(highest * 1.05 / step) or 1
    return count * step, [number * step for number in range(count + 1) if number * step <= 1.0001]


def _digits(ticks: Sequence[float]) -> int:
    step = 100 * (ticks[1] - ticks[0])
    return next((n for n in range(4) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 4)


def _time_ticks(axis: _TimeAxis, wording: Wording) -> tuple[Tick, ...]:
    span = axis.until - axis.since
    shortest_s = span.total_seconds() / _MOST_LABELS
    width_s = next((width for width in _LABEL_WIDTHS_S if width >= shortest_s), None)
    step = timedelta(seconds=width_s) if width_s else math.ceil(shortest_s / 86400) * _DAY
    midnight = axis.since.astimezone(wording.zone).replace(hour=0, minute=0)
    moment = midnight.astimezone(axis.since.tzinfo)
    ticks, day = [], ""
    while moment <= axis.until:
        if moment >= axis.since:
            today = wording.day(moment)
            label = today if step >= _DAY else wording.clock(moment)
            ticks.append(Tick(axis.x(moment), label, today if today not in (day, label) else ""))
            day = today
        moment += step
    return tuple(ticks)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _steps(spans: Sequence[tuple[float, float, float]]) -> str:
    """A path of level pieces, joined where one begins where another ends."""
    path, end = "", math.nan
    for left, right, y in spans:
        path += f" V{y} H{right}" if left == end else f" M{left},{y} H{right}"
        end = right
    return path.strip()
