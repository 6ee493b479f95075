"""One panel of a dashboard: what it says, and how Grafana is told."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
HALF, THIRD, SMALL = 12, 8, 6  # of the 24 columns of a row


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """One panel; `limit` draws the value above which somebody should look."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    span: int = HALF
    limit: float | None = None
    kind: type[Timeseries] | type[Stat] | type[Heatmap] = Timeseries


def panel(plot: Plot) -> Timeseries | Stat | Heatmap:
    """Build one panel."""
    made = plot.kind().title(plot.title).description(plot.description).datasource(SOURCE)
    made = made.unit(plot.unit).span(plot.span).height(7)
    if plot.limit is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=plot.limit, color="red")]
        made = made.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    if isinstance(made, Timeseries):
        legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        made = made.legend(legend.placement(LegendPlacement.BOTTOM)).min(0)
    if isinstance(made, Stat):
        made = made.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    for number, query in enumerate(plot.queries):
        made = made.with_target(_target(query, number, is_heatmap=plot.kind is Heatmap))
    return made


def _target(query: Query, number: int, *, is_heatmap: bool) -> Dataquery:
    target = Dataquery().expr(query.expr).ref_id(chr(ord("A") + number)).datasource(SOURCE)
    target = target.legend_format(query.legend) if query.legend else target
    return target.format(PromQueryFormat.HEATMAP) if is_heatmap else target
