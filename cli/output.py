"""What commands print alike."""

import json
from typing import Any

import typer


def say_calibration(calibration: Any, before: Any = None) -> None:
    """Print a threshold and what it promises."""
    from anomaly.calibration_report import state

    stated = (
        "set by hand"
        if calibration.mode == "given"
        else f"for a false-alarm rate of {calibration.false_alarm_rate:.2%}"
    )
    typer.echo(f"threshold {calibration.threshold:.4f} {stated}")
    for line in state(calibration, before).messages:
        typer.echo(line)


def trade_off_table(calibration: Any) -> str:
    """Lay out what several thresholds cost and catch; the one that serves is marked."""
    from anomaly.tradeoff import trade_offs

    lines = [
        "  of 1,000 good parts rejected (95 %)",
        f"  {'stated':>8}{'threshold':>12}{'rejected':>10}{'from':>6}{'to':>6}{'synthetic':>12}"
        "  threshold is",
    ]
    for point in trade_offs(calibration):
        alarms = point.false_alarms
        stated = "by hand" if point.rate is None else f"{point.rate:.4g}"
        recall = "–" if point.synthetic_recall is None else f"{point.synthetic_recall:.1%}"
        mark = ">" if point.threshold == calibration.threshold else " "
        lines.append(
            f"{mark} {stated:>8}{point.threshold:>12.4f}{alarms.mean:>10.1f}{alarms.low:>6}"
            f"{alarms.high:>6}{recall:>12}  {point.mode}"
        )
    lines.append("synthetic: share of drawn defects above the threshold; real ones may differ")
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """Print JSON for a script."""
    typer.echo(json.dumps(value, indent=2))
