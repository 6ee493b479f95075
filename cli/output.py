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


def trade_off_table(calibration: Any, points: Any) -> str:
    """Lay out what several thresholds cost and catch; the one that serves is marked."""
    confirmed = points[0].defects_recall is not None
    lines = [
        "  of 1,000 good parts rejected (95 %)",
        f"  {'stated':>8}{'threshold':>12}{'rejected':>10}{'from':>6}{'to':>6}{'synthetic':>12}"
        f"{'confirmed' * confirmed:>{12 * confirmed}}  threshold is",
    ]
    for point in points:
        alarms = point.false_alarms
        stated = "by hand" if point.rate is None else f"{point.rate:.4g}"
        recall = "–" if point.synthetic_recall is None else f"{point.synthetic_recall:.1%}"
        caught = f"{point.defects_recall:>12.1%}" if confirmed else ""
        mark = ">" if point.threshold == calibration.threshold else " "
        lines.append(
            f"{mark} {stated:>8}{point.threshold:>12.4f}{alarms.mean:>10.1f}{alarms.low:>6}"
            f"{alarms.high:>6}{recall:>12}{caught}  {point.mode}"
        )
    lines.append("synthetic: share of drawn defects above the threshold; real ones may differ")
    return "\n".join(lines)


def cost_table(priced: Any, defects: int) -> str:
    """Lay out what several rates cost of 1,000 parts; the cheapest is marked."""
    from anomaly.cost import cheapest

    lines = [
        "  of 1,000 parts, estimated",
        f"  {'stated':>8}{'threshold':>12}{'good rejected':>15}{'bad passed':>12}{'cost':>12}"
        "  threshold is",
    ]
    best = cheapest(priced)
    for cost in priced:
        point = cost.trade_off
        stated = "by hand" if point.rate is None else f"{point.rate:.4g}"
        mark = ">" if cost is best else " "
        lines.append(
            f"{mark} {stated:>8}{point.threshold:>12.4f}{cost.false_alarms:>15.1f}"
            f"{cost.escapes:>12.2f}{cost.cost:>12.4g}  {point.mode}"
        )
    lines.append(
        f"bad passed: by {defects} confirmed defects and by drawn ones, which count as five; "
        "defects that nobody found are not in it"
    )
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """Print JSON for a script."""
    typer.echo(json.dumps(value, indent=2))
