"""What commands print alike."""

import json
from typing import Any

import typer


def say_calibration(calibration: Any, before: Any = None) -> None:
    """Print a threshold and what it promises."""
    from anomaly.calibration_report import state

    rate = calibration.false_alarm_rate
    typer.echo(f"threshold {calibration.threshold:.4f} for a false-alarm rate of {rate:.2%}")
    for line in state(calibration, before).messages:
        typer.echo(line)


def print_json(value: Any) -> None:
    """Print JSON for a script."""
    typer.echo(json.dumps(value, indent=2))
