"""A report as one HTML page: no script, nothing loaded from elsewhere, everything escaped."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from record.statistics import Worst
from service.report.changes import Change, Changes
from service.report.charts import (
    LEFT,
    RIGHT,
    WIDTH,
    control_places,
    drift_places,
    pareto_places,
)
from service.report.figures import FEW, Figures
from service.report.period import Period
from service.report.wording import Wording

# Also of the service's answer; the page itself says it where it is opened as a file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MARK = b'<meta name="generator" content="Maskline shift report">'
_DETAILS = ("version", "camera", "threshold", "false_alarm_rate", "normals", "forced_because")


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the worst parts, as a JPEG with its map over it."""

    worst: Worst
    jpeg: bytes

    @property
    def data(self) -> str:
        """The JPEG as the text of a data URI."""
        return base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What stands in a report, and of what period and parts it is."""

    period: Period
    camera: str | None
    lot: str | None
    made_at: datetime
    figures: Figures
    changes: Changes
    pictures: tuple[Picture, ...]


def page_of(contents: Contents, wording: Wording) -> str:
    """Write the page."""
    figures = contents.figures
    return _template().render(
        contents=contents,
        figures=figures,
        counts=figures.totals.counts,
        w=wording,
        t=wording.text,
        policy=POLICY,
        version=version("maskline"),
        findings=list(_findings(contents, wording)),
        control=control_places(figures.chart, wording) if figures.chart.slices else None,
        pareto=pareto_places(figures.pareto, wording),
        drifts=[
            (drift, drift_places(drift, figures.chart, wording))
            for drift in figures.drifts
            if drift.course
        ],
        changes=[(change, _details(change, wording)) for change in contents.changes.listed],
        cumulated=_cumulated(figures.pareto.named),
        few=FEW,
        width=WIDTH,
        left=LEFT,
        right=RIGHT,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("service.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _findings(contents: Contents, wording: Wording) -> Iterator[str]:
    """Say what a shift leader should not have to look for."""
    figures, counts = contents.figures, contents.figures.totals.counts
    chart = figures.chart
    for side in ("above", "below"):
        if out := [part for part in chart.out if part.side == side]:
            yield wording.text(
                f"attention_{side}",
                count=len(out),
                slices=len(chart.slices),
                width=wording.width(chart.width_s),
                first=wording.moment(out[0].since),
            )
    for drift in figures.drifts:
        if drift.moved == "much":
            camera = drift.stream.camera or wording.text("no_camera")
            psi = wording.decimal(drift.psi)
            yield wording.text("attention_drift", model=drift.stream.model, camera=camera, psi=psi)
    if figures.people.missed:
        yield wording.text("attention_missed", count=figures.people.missed)
    if counts.ng and not figures.people.rejected.count:
        yield wording.text("attention_unseen_ng", count=counts.ng)
    if (passed := figures.people.passed).parts and not passed.count:
        yield wording.text("attention_unseen_passed", count=passed.parts)
    if not contents.changes.is_readable:
        yield wording.text("attention_audit")


def _details(change: Change, wording: Wording) -> str:
    """Say what of a change the audit trail has, as far as it matters to a shift."""
    return "; ".join(
        wording.text(f"detail_{name}", value=_value(name, change.details[name], wording))
        for name in _DETAILS
        if change.details.get(name) is not None
    )


def _value(name: str, value: object, wording: Wording) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        if name == "false_alarm_rate":
            return wording.share(value)
        return wording.integer(value) if isinstance(value, int) else wording.decimal(value)
    return str(value)


def _cumulated(named: Sequence[tuple[str, int]]) -> list[int]:
    sums, total = [], 0
    for _, count in named:
        total += count
        sums.append(total)
    return sums
