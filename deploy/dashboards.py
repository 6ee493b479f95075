"""The Grafana dashboards, written from here: `python -m deploy.dashboards` (`make dashboards`).

Every panel has a title, a description, a unit and queries; `tests/deploy` checks that each metric
exists.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
    TextBoxVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "grafana/dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_WIDE, _HALF, _THIRD, _SMALL = 24, 12, 8, 6
_OF = '{model=~"$model", camera=~"$camera"}'
_NG = '{verdict="NG", model=~"$model", camera=~"$camera"}'


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
    span: int = _HALF
    limit: float | None = None
    kind: type[Timeseries] | type[Stat] | type[Heatmap] = Timeseries


def _quantiles(bucket: str, *percent: int) -> tuple[Query, ...]:
    """Quantiles of a histogram over the last minute."""
    return tuple(
        Query(f"histogram_quantile({p / 100:g}, sum by (le) (rate({bucket}[1m])))", f"p{p}")
        for p in percent
    )


LINE: dict[str, tuple[Plot, ...]] = {
    "Now": (
        Plot(
            "Anomaly rate",
            "Share of the parts of the last five minutes that were NG, of all cameras together.",
            "percentunit",
            (
                Query(
                    f"sum(rate(maskline_inspections_total{_NG}[5m]))"
                    f" / sum(rate(maskline_inspections_total{_OF}[5m]))"
                ),
            ),
            _SMALL,
            kind=Stat,
        ),
        Plot(
            "Parts a minute",
            "Parts inspected a minute.",
            "short",
            (Query(f"60 * sum(rate(maskline_inspections_total{_OF}[5m]))"),),
            _SMALL,
            kind=Stat,
        ),
        Plot(
            "Silent cameras",
            "Cameras that have sent no image for a minute. Some may be off on purpose.",
            "short",
            (
                Query(
                    'count(time() - maskline_last_image_timestamp_seconds{camera=~"$camera"} > 60)'
                    " or vector(0)"
                ),
            ),
            _SMALL,
            0.5,
            kind=Stat,
        ),
        Plot(
            "Cameras that drift",
            "Cameras whose images or parts have changed since the calibration, by the "
            "sequential test.",
            "short",
            (Query(f"sum(maskline_drift_found{_OF})"),),
            _SMALL,
            0.5,
            kind=Stat,
        ),
    ),
    "Verdicts": (
        Plot(
            "Anomaly rate by camera, five minutes",
            "Share of parts that were NG in the last five minutes.",
            "percentunit",
            (Query(f"maskline:anomaly_ratio:rate5m{_OF}", "{{model}} {{camera}}"),),
        ),
        Plot(
            "Anomaly rate by camera, shift",
            "Share of parts that were NG in the last eight hours: what the shift hands over.",
            "percentunit",
            (
                Query(
                    f"sum by (model, camera) (increase(maskline_inspections_total{_NG}[8h])) / "
                    f"sum by (model, camera) (increase(maskline_inspections_total{_OF}[8h]))",
                    "{{model}} {{camera}}",
                ),
            ),
        ),
        Plot(
            "Verdicts",
            "Parts a minute by verdict; WARN only where a warning rate was calibrated.",
            "short",
            (
                Query(
                    f"60 * sum by (verdict) (rate(maskline_inspections_total{_OF}[5m]))",
                    "{{verdict}}",
                ),
            ),
        ),
        Plot(
            "Score over threshold",
            "How far scores lie from the threshold: 1 is the threshold, and what moves towards "
            "it is coming.",
            "short",
            (Query(f"sum by (le) (increase(maskline_score_ratio_bucket{_OF}[5m]))", "{{le}}"),),
            kind=Heatmap,
        ),
    ),
    "Cameras": (
        Plot(
            "Seconds since the last image",
            "Grows while a camera is silent.",
            "s",
            (
                Query(
                    'time() - maskline_last_image_timestamp_seconds{camera=~"$camera"}',
                    "{{camera}}",
                ),
            ),
            _THIRD,
            60,
        ),
        Plot(
            "Score drift",
            "Stability index of the last 200 scores against calibration: above 0.25 is much.",
            "short",
            (Query(f"maskline_score_drift_psi{_OF}", "{{model}} {{camera}}"),),
            _THIRD,
            0.25,
        ),
        Plot(
            "Image drift",
            "Stability index of brightness, contrast, sharpness, colour and distance from "
            "remembered parts.",
            "short",
            (
                Query(
                    f"max by (camera, statistic) (maskline_input_drift_psi{_OF})",
                    "{{camera}} {{statistic}}",
                ),
            ),
            _THIRD,
            0.25,
        ),
        Plot(
            "Brightness",
            "Brightness of the last 200 images over that at calibration.",
            "percentunit",
            (Query(f"maskline_input_brightness_ratio{_OF}", "{{model}} {{camera}}"),),
        ),
        Plot(
            "What drifts",
            "1 where the sequential test found that the camera, or the parts, have changed.",
            "short",
            (Query(f"maskline_drift_found{_OF}", "{{camera}} {{finding}}"),),
        ),
    ),
}

SERVICE: dict[str, tuple[Plot, ...]] = {
    "Load": (
        Plot(
            "Answers by status",
            "Requests a second by status code.",
            "reqps",
            (Query("sum by (code) (rate(maskline_requests_total[1m]))", "{{code}}"),),
        ),
        Plot(
            "Refused, by reason",
            "Requests a second that were refused: full queue, bad images, missing keys.",
            "reqps",
            (Query("sum by (reason) (rate(maskline_rejected_total[1m]))", "{{reason}}"),),
        ),
        Plot(
            "Left, by stage",
            "Clients a second that left before their answer, by where their request was.",
            "reqps",
            (
                Query(
                    "sum by (stage) (rate(maskline_abandoned_total[1m])) or vector(0)", "{{stage}}"
                ),
            ),
            _THIRD,
        ),
        Plot(
            "Queue",
            "Images that wait, and how many may.",
            "short",
            (Query("maskline_queue_depth", "waiting"), Query("maskline_queue_limit", "limit")),
            _THIRD,
        ),
        Plot(
            "Requests in flight",
            "Requests past the door, bodies included.",
            "short",
            (Query("maskline_in_flight_requests", "in flight"),),
            _THIRD,
        ),
    ),
    "Time": (
        Plot(
            "Answer time",
            "Seconds from the first byte to the answer, for /score.",
            "s",
            _quantiles(
                'maskline_request_duration_seconds_bucket{route=~"/score|/v1/score"}', 50, 95, 99
            ),
        ),
        Plot(
            "Stages",
            "Mean seconds in each stage of an inspection.",
            "s",
            (
                Query(
                    "sum by (stage) (rate(maskline_stage_duration_seconds_sum[1m])) / "
                    "sum by (stage) (rate(maskline_stage_duration_seconds_count[1m]))",
                    "{{stage}}",
                ),
            ),
        ),
        Plot(
            "Images in a batch",
            "Mean size of batches: above one means that images wait for each other.",
            "short",
            (
                Query(
                    "sum by (model) (rate(maskline_batch_size_sum[1m])) / "
                    "sum by (model) (rate(maskline_batch_size_count[1m]))",
                    "{{model}}",
                ),
            ),
        ),
        Plot(
            "Versions",
            "Which version of each model serves.",
            "short",
            (Query("maskline_model_info", "{{model}} {{version}}"),),
        ),
    ),
    "Record": (
        Plot(
            "Results behind",
            "Bytes of results that wait for the database.",
            "bytes",
            (Query("maskline_record_behind_bytes", "behind"),),
            _THIRD,
            10e6,
        ),
        Plot(
            "Lost",
            "Results that the disk did not take, and images that could not be kept.",
            "short",
            (
                Query("increase(maskline_record_lost_total[5m])", "results"),
                Query("increase(maskline_kept_lost_total[5m])", "images"),
            ),
            _THIRD,
        ),
        Plot(
            "Kept images",
            "Bytes of images and evidence that are kept.",
            "bytes",
            (Query("maskline_kept_bytes", "kept"),),
            _THIRD,
        ),
    ),
}

DEVICE: dict[str, tuple[Plot, ...]] = {
    "Inference": (
        Plot(
            "Inference time",
            "Seconds of a batch.",
            "s",
            _quantiles('maskline_stage_duration_seconds_bucket{stage="inference"}', 50, 99),
        ),
        Plot(
            "Batch limit",
            "Most work items in a batch: it is halved when memory runs out, and comes back slowly.",
            "short",
            (Query("maskline_batch_limit", "limit"),),
        ),
        Plot(
            "Out of memory",
            "Batches that did not fit the device in the last ten minutes.",
            "short",
            (Query("sum(increase(maskline_oom_total[10m])) or vector(0)", "batches"),),
        ),
        Plot(
            "Device memory",
            "Memory that the process holds on the device; on a CPU, its resident memory.",
            "bytes",
            (Query("maskline_device_memory_bytes", "{{kind}}"),),
        ),
    ),
    "Process": (
        Plot(
            "Processor",
            "Cores in use.",
            "short",
            (Query('rate(process_cpu_seconds_total{job="maskline"}[1m])', "cores"),),
            _THIRD,
        ),
        Plot(
            "Memory",
            "Resident memory of the service.",
            "bytes",
            (Query('process_resident_memory_bytes{job="maskline"}', "resident"),),
            _THIRD,
        ),
        Plot(
            "Open files",
            "File descriptors in use.",
            "short",
            (Query('process_open_fds{job="maskline"}', "open"),),
            _THIRD,
        ),
    ),
    "GPU (NVIDIA's exporter, where there is one)": (
        Plot(
            "GPU utilisation",
            "Share of time in which the GPU computes.",
            "percent",
            (Query("DCGM_FI_DEV_GPU_UTIL", "GPU {{gpu}}"),),
        ),
        Plot(
            "GPU memory",
            "Memory in use on the GPU.",
            "decmbytes",
            (Query("DCGM_FI_DEV_FB_USED", "GPU {{gpu}}"),),
        ),
    ),
}

DASHBOARDS: dict[str, tuple[str, str, dict[str, tuple[Plot, ...]]]] = {
    "line": ("Maskline: line", "What the line produces and what its cameras see.", LINE),
    "service": ("Maskline: service", "Load, time and record of the service.", SERVICE),
    "device": ("Maskline: device", "What the service costs its machine.", DEVICE),
}


def dashboard(name: str) -> str:
    """Return a dashboard as JSON."""
    title, description, rows = DASHBOARDS[name]
    built = (
        Dashboard(title)
        .uid(f"maskline-{name}")
        .description(description)
        .tags(["maskline"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .link(DashboardLink("Maskline").type(DashboardLinkType.DASHBOARDS).tags(["maskline"]))
    )
    if name == "line":
        built = _with_choices(built)
    for row, plots in rows.items():
        built = built.with_row(Row(row))
        for plot in plots:
            built = built.with_panel(panel(plot))
    encoded: str = JSONEncoder(sort_keys=True, indent=2).encode(built.build())
    return encoded + "\n"


def _with_choices(built: Dashboard) -> Dashboard:
    """Let people choose models and cameras, and lead to the rejected parts' results."""
    for name in ("model", "camera"):
        variable = (
            QueryVariable(name)
            .label(name.capitalize())
            .query(f"label_values(maskline_inspections_total, {name})")
            .datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
        built = built.with_variable(variable)
    address = TextBoxVariable("service").label("Service").default_value("http://localhost:8000")
    built = built.with_variable(address)
    rejects = (
        DashboardLink("Last rejects")
        .type(DashboardLinkType.LINK)
        .url("${service}/v1/results?verdict=NG&limit=100")
        .tooltip("Their results, at the address above; it wants an API key or MASKLINE_AUTH=off")
        .target_blank(True)
    )
    return built.link(rejects)


def panel(plot: Plot) -> Timeseries | Stat | Heatmap:
    """Build one panel."""
    made = plot.kind().title(plot.title).description(plot.description).datasource(_SOURCE)
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
    target = Dataquery().expr(query.expr).ref_id(chr(ord("A") + number)).datasource(_SOURCE)
    target = target.legend_format(query.legend) if query.legend else target
    return target.format(PromQueryFormat.HEATMAP) if is_heatmap else target


def plots() -> Sequence[tuple[str, Plot]]:
    """Return every panel with its dashboard's name."""
    return [
        (name, plot)
        for name, (_, _, rows) in DASHBOARDS.items()
        for row in rows.values()
        for plot in row
    ]


def main() -> None:
    """Write the files."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(dashboard(name), encoding="utf-8")


if __name__ == "__main__":
    main()
