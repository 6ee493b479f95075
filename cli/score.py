"""Commands that give a model its threshold, and look at parts."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import (
    AsJson,
    Camera,
    Data,
    DefectRate,
    Defects,
    Device,
    EscapeCost,
    FalseAlarmCost,
    GroupBy,
    Model,
    Rate,
    Skip,
    Threshold,
    WarnRate,
)
from cli.output import cost_table, print_json, say_calibration, trade_off_table
from training.decoding import Decoding


def calibrate(
    model: Model,
    normals: Annotated[
        Path, typer.Argument(help="Held-out normal images: a folder, a set, or a manifest.")
    ],
    false_alarm_rate: Rate = None,
    *,
    threshold: Threshold = None,
    warn_rate: WarnRate = None,
    roi: Annotated[
        Path | None,
        typer.Option(
            help="What counts in an image: JSON of polygons (include, ignore), or a mask image. "
            "'none' takes away the one from before, which is kept otherwise."
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(help="Calibrate for this camera or product alone; the others keep theirs."),
    ] = None,
    group_by: GroupBy = None,
    skip_unreadable: Skip = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Give a model its threshold, from normal images it was not trained on."""
    from anomaly.calibration_report import state
    from training.data import calibration_images
    from training.outputs import check_changed_model
    from training.pipeline import Recalibration, calibrate_folder

    check_changed_model(model)
    images = calibration_images(normals, group_by)
    done = calibrate_folder(
        model,
        images.samples,
        Recalibration(false_alarm_rate, warn_rate, roi, camera, threshold),
        group_by=group_by,
        decoding=Decoding(skip_unreadable=skip_unreadable),
        device=device,
    )
    if as_json:
        report = asdict(state(done.calibration, done.before))
        listing = images.listing.as_dict()
        print_json({"version": done.bundle.version, "camera": camera, "data": listing, **report})
        return
    typer.echo(f"calibrated {model}, version {done.bundle.version}")
    say_calibration(done.calibration, done.before)


def statement(
    model: Model,
    *,
    camera: Camera = None,
    defects: Defects = None,
    escape_cost: EscapeCost = None,
    false_alarm_cost: FalseAlarmCost = 1.0,
    defect_rate: DefectRate = None,
    skip_unreadable: Skip = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say what a model's threshold promises, and what others would cost and catch."""
    from anomaly.bundle import load_bundle
    from anomaly.calibration_report import state
    from anomaly.cost import Stakes, costs
    from anomaly.tradeoff import trade_offs
    from training.confirmed import confirmed_scores
    from training.decoding import Decoding

    stakes = None
    if escape_cost is not None and defect_rate is not None:
        stakes = Stakes(escape_cost, false_alarm_cost, defect_rate)
    elif escape_cost is not None or defect_rate is not None:
        raise typer.BadParameter("--escape-cost and --defect-rate need each other")
    bundle = load_bundle(model, check_golden=False, with_graph=False)
    calibration = bundle.calibration_of(camera)
    confirmed: list[float] = []
    if defects is not None:
        decoding = Decoding(skip_unreadable=skip_unreadable)
        confirmed = confirmed_scores(
            bundle, defects, camera=camera, decoding=decoding, device=device
        )
    points = trade_offs(calibration, confirmed or None)
    priced = () if stakes is None else costs(calibration, stakes, confirmed)
    if as_json:
        named = {"name": bundle.name, "version": bundle.version, "camera": camera}
        tables = {
            "trade_offs": [asdict(point) for point in points],
            "costs": [asdict(cost) for cost in priced],
            "confirmed_defects": len(confirmed),
        }
        print_json({**named, **asdict(state(calibration)), **tables})
        return
    typer.echo(f"{bundle.name}, version {bundle.version}")
    say_calibration(calibration)
    typer.echo("\n" + trade_off_table(calibration, points))
    if priced:
        typer.echo("\n" + cost_table(priced, len(confirmed)))


def evaluate(
    model: Model,
    data: Data,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file ('-': print).")
    ] = None,
    *,
    report: Annotated[
        Path | None, typer.Option(help="Write report.html and pictures to this folder.")
    ] = None,
    skip_unreadable: Skip = False,
    device: Device = "auto",
) -> None:
    """Score a test split: AUROC, AUPRO, false alarms, a table for each kind of defect."""
    from training.data import open_dataset
    from training.evaluate import are_figures, format_table
    from training.outputs import REPORT, check_own_file, check_own_folder
    from training.pipeline import evaluate_model

    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not to_stdout:
        check_own_file(json_file, are_figures)
    if report is not None:
        check_own_folder(report, REPORT, [model, data])
    figures, page = evaluate_model(
        model,
        open_dataset(data, near_copies=False),
        json_file=None if to_stdout else json_file,
        report=report,
        decoding=Decoding(skip_unreadable=skip_unreadable),
        device=device,
    )
    if to_stdout:
        print_json(figures)
        return
    typer.echo(format_table(figures))
    if page is not None:
        typer.echo(f"report: {page}")


def score(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    heatmaps: Annotated[
        Path | None, typer.Option(help="Write an overlay for each image to this folder.")
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Append JSON lines to this file, skipping the images it has already."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score images; exit code 1 when any is NG, 2 when any cannot be read.

    A model of labels says their kinds instead, and none of them is NG.
    """
    from tqdm import tqdm

    from supervised.bundle import is_supervised
    from training.finetune.scoring import label_files
    from training.outputs import HEATMAPS, check_own_file, check_own_folder
    from training.scoring import is_records, read_done, score_files

    if heatmaps is not None:
        check_own_folder(heatmaps, HEATMAPS, [model, *images])
    if out is not None:
        check_own_file(out, is_records)
    ng = unreadable = count = 0
    done = set() if out is None else read_done(out)
    if is_supervised(model):
        if heatmaps is not None:
            raise typer.BadParameter("a model of labels has no heatmaps; leave out --heatmaps")
        rows = label_files(model, images, device=device, done=done)
    else:
        rows = score_files(model, images, heatmaps=heatmaps, device=device, done=done)
    with contextlib.nullcontext() if out is None else out.open("a", encoding="utf-8") as file:
        for row in rows if out is None else tqdm(rows, desc="scoring", unit="image"):
            if file is None:
                typer.echo(json.dumps(row) if as_json else _score_line(row))
            else:
                file.write(json.dumps(row) + "\n")
                file.flush()
            count += 1
            ng += row.get("verdict") == "NG"
            unreadable += row["status"] == "error"
    if out is not None:
        typer.echo(
            f"{count} images scored into {out}: {ng} NG, {unreadable} unreadable; {len(done)} were "
            "there already"
        )
    if unreadable or ng:
        raise typer.Exit(2 if unreadable else 1)


def _score_line(row: dict[str, Any]) -> str:
    from training.samples import printable

    image = printable(row["image"])
    if row["status"] == "error":
        return f"ERROR  {image}: {printable(row['detail'])}"
    if "task" in row:
        from training.finetune.scoring import label_line

        return f"{printable(label_line(row))}  {image}"
    unlike = "".join(f"\n       ! {warning['text']}" for warning in row.get("warnings", ()))
    return f"{row['verdict']:<5}  {row['score']:8.3f}  p={row['p_value']:.4f}  {image}{unlike}"
