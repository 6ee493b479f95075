"""The dashboards' queries drawn from a Prometheus, for where Grafana does not run.

These are not Grafana's pictures: same queries, same titles, matplotlib. `make monitoring-pictures`
draws the ones in docs/images from the live test's Prometheus.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.stat import Panel as Stat
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.boards import DASHBOARDS
from deploy.panels import Plot

# PromQL to its series over the time that is shown, as /api/v1/query_range gives them.
Ask = Callable[[str], Sequence[Mapping[str, Any]]]
_COLUMNS = 3
_SERIES = 8
_NOTE = "drawn by matplotlib from the queries of the dashboard, not a picture of Grafana"


def draw(board: str, ask: Ask, until: float, out: Path) -> None:
    """Draw every panel of a dashboard, up to a moment in Unix seconds, to a PNG or JPEG."""
    _, _, rows = DASHBOARDS[board]
    panels = [plot for row in rows.values() for plot in row]
    lines = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(15, 2.9 * lines), layout="constrained")
    figure.suptitle(f"{board}: {_NOTE}", fontsize=10)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    for axes, plot in zip(grid.flat, panels, strict=False):
        _panel(axes, plot, ask, until)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    figure.savefig(out, dpi=80)


def _panel(axes: Axes, plot: Plot, ask: Ask, until: float) -> None:
    unit = "" if plot.unit in ("short", "none") else f" ({plot.unit})"
    axes.set_title(f"{plot.title}{unit}", fontsize=9)
    axes.tick_params(labelsize=7)
    found = [(query.legend, series) for query in plot.queries for series in ask(query.expr)]
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey")
        return
    if plot.kind is Stat:
        values = [f"{float(series['values'][-1][1]):.3g}" for _, series in found[:_SERIES]]
        axes.text(0.5, 0.5, "  ".join(values), ha="center", va="center", fontsize=22)
        axes.axis("off")
    elif plot.kind is Heatmap:
        _heatmap(axes, [series for _, series in found])
    else:
        _lines(axes, plot, found, until)


def _lines(
    axes: Axes, plot: Plot, found: Sequence[tuple[str, Mapping[str, Any]]], until: float
) -> None:
    for legend, series in found[:_SERIES]:
        times, values = np.array(series["values"], dtype=float).T
        axes.plot(times - until, values, linewidth=1, label=_name(legend, series["metric"]))
    if plot.limit is not None:
        axes.axhline(plot.limit, color="red", linewidth=0.7, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s", fontsize=7)
    if len(found) > 1 or found[0][0]:
        axes.legend(fontsize=6, loc="upper left")


def _heatmap(axes: Axes, found: Sequence[Mapping[str, Any]]) -> None:
    """Counts in each bucket over time: buckets of a histogram are cumulative."""
    found = sorted(found, key=lambda series: float(series["metric"].get("le", "inf")))
    shortest = min(len(series["values"]) for series in found)
    cumulative = np.array([[float(v) for _, v in series["values"][-shortest:]] for series in found])
    counts = np.diff(np.nan_to_num(cumulative), axis=0, prepend=0)
    axes.imshow(counts.clip(min=0), aspect="auto", origin="lower", cmap="viridis")
    axes.set_yticks(
        range(len(found)), [series["metric"].get("le", "") for series in found], fontsize=6
    )


def _name(legend: str, metric: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda label: metric.get(label[1], "-"), legend)
