"""What each dashboard shows: its rows and their panels."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.stat import Panel as Stat

from deploy.panels import SMALL, THIRD, Plot, Query

_OF = '{model=~"$model", camera=~"$camera"}'
_NG = '{verdict="NG", model=~"$model", camera=~"$camera"}'


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
            SMALL,
            kind=Stat,
        ),
        Plot(
            "Parts a minute",
            "Parts inspected a minute.",
            "short",
            (Query(f"60 * sum(rate(maskline_inspections_total{_OF}[5m]))"),),
            SMALL,
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
            SMALL,
            0.5,
            kind=Stat,
        ),
        Plot(
            "Cameras that drift",
            "Cameras whose images or parts have changed since the calibration, by the "
            "sequential test.",
            "short",
            (Query(f"sum(maskline_drift_found{_OF})"),),
            SMALL,
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
    "Defects": (
        Plot(
            "Kinds of defects, shift",
            "Parts of the last eight hours by what was found on them, the ten commonest kinds: "
            "what to mend first. Kinds are named from labelled parts.",
            "short",
            (
                Query(
                    "topk(10, sum by (kind) "
                    '(increase(maskline_defects_total{model=~"$model"}[8h])))',
                    "{{kind}}",
                ),
            ),
        ),
        Plot(
            "Kinds of defects an hour",
            "How often each kind is found; unknown is what no labelled part is like.",
            "short",
            (
                Query(
                    'sum by (kind) (increase(maskline_defects_total{model=~"$model"}[1h]))',
                    "{{kind}}",
                ),
            ),
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
            THIRD,
            60,
        ),
        Plot(
            "Score drift",
            "Stability index of the last 200 scores against calibration: above 0.25 is much.",
            "short",
            (Query(f"maskline_score_drift_psi{_OF}", "{{model}} {{camera}}"),),
            THIRD,
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
            THIRD,
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
            THIRD,
        ),
        Plot(
            "Queue",
            "Images that wait, and how many may.",
            "short",
            (Query("maskline_queue_depth", "waiting"), Query("maskline_queue_limit", "limit")),
            THIRD,
        ),
        Plot(
            "Requests in flight",
            "Requests past the door, bodies included.",
            "short",
            (Query("maskline_in_flight_requests", "in flight"),),
            THIRD,
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
            THIRD,
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
            THIRD,
        ),
        Plot(
            "Kept images",
            "Bytes of images and evidence that are kept.",
            "bytes",
            (Query("maskline_kept_bytes", "kept"),),
            THIRD,
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
            THIRD,
        ),
        Plot(
            "Memory",
            "Resident memory of the service.",
            "bytes",
            (Query('process_resident_memory_bytes{job="maskline"}', "resident"),),
            THIRD,
        ),
        Plot(
            "Open files",
            "File descriptors in use.",
            "short",
            (Query('process_open_fds{job="maskline"}', "open"),),
            THIRD,
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


def plots() -> Sequence[tuple[str, Plot]]:
    """Return every panel with its dashboard's name."""
    return [
        (name, plot)
        for name, (_, _, rows) in DASHBOARDS.items()
        for row in rows.values()
        for plot in row
    ]
