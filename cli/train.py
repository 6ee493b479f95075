"""Commands that make models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.options import (
    AsJson,
    Data,
    Device,
    GroupBy,
    Model,
    Overrides,
    ProgressFile,
    Rate,
    Skip,
    WarnRate,
)
from cli.output import print_json, say_calibration
from training.decoding import Decoding


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "default",
    *,
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    calibrate: Annotated[
        bool, typer.Option(help="Calibrate on the validation split when trained.")
    ] = True,
    false_alarm_rate: Rate = None,
    warn_rate: WarnRate = None,
    group_by: GroupBy = None,
    max_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds that an image may take this machine, decoding aside: larger "
            "canvases are not tried.",
            min=0.001,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Model to start from, as maskline pretrain makes it: fewer images do."),
    ] = None,
    skip_unreadable: Skip = False,
    progress_file: ProgressFile = None,
) -> None:
    """Train a model on defect-free images and calibrate it on held-out ones."""
    from anomaly.calibration import CalibrationSettings
    from training.config import load_recipe
    from training.data import open_dataset
    from training.outputs import check_model, check_run
    from training.pipeline import Training, run_folder, train_model
    from training.progress import progress_to
    from training.world import joined

    takt = [] if max_ms is None else [f"plan.max_ms={max_ms!r}"]
    config = load_recipe(recipe, [*(set_ or ()), *takt])
    settings = CalibrationSettings(false_alarm_rate, warn_rate) if calibrate else None
    how = Training(resume, settings, group_by, init, Decoding(skip_unreadable=skip_unreadable))
    with joined(config.run.device) as world:
        progress = progress_to(progress_file).within(is_first=world.is_first)
        dataset = open_dataset(data, group_by, progress=progress)
        if world.is_first:
            folders = {sample.path.parent: sample.path for sample in dataset.samples}
            check_model(out, [data, *folders.values(), *([init] if init else [])])
            check_run(run_folder(out))
        bundle = train_model(dataset, out, config, how, world=world, progress=progress)
    if not world.is_first:
        return
    typer.echo(f"saved {out}, version {bundle.version}")
    if bundle.calibration is None:
        typer.echo(f"not calibrated yet: maskline calibrate {out} NORMALS")
    else:
        say_calibration(bundle.calibration)


def pretrain(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of normal images of any depth, sets, manifests; "
            "or WebDataset shards (.tar)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "pretrain",
    *,
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    relist: Annotated[
        bool, typer.Option("--relist", help="List the folders anew: images came or went.")
    ] = False,
) -> None:
    """Train an autoencoder on many products' normal images, to start others from (train --init)."""
    from training.config import load_recipe
    from training.outputs import check_model, check_run
    from training.pipeline import run_folder
    from training.pretrain import pretrain as run
    from training.world import joined

    config = load_recipe(recipe, set_ or ())
    with joined(config.run.device) as world:
        if world.is_first:
            check_model(out, data)
            check_run(run_folder(out))
        bundle = run(data, out, run_folder(out), config, world=world, resume=resume, relist=relist)
    if world.is_first:
        typer.echo(
            f"saved {out}, version {bundle.version}; next: maskline train DATA --init {out} "
            "--out MODEL"
        )


def finetune(
    data: Annotated[
        Path,
        typer.Argument(
            help="Labelled set: train/<kind>/ and test/<kind>/, any layout that names kinds, or a "
            ".jsonl manifest."
        ),
    ],
    init: Annotated[
        Path,
        typer.Option(
            help="Whose encoder to start from: a model folder (train, pretrain, import-mae), or a "
            "checkpoint of public weights, with or without a decoder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="finetune-linear, finetune-partial or finetune-full for kinds of images, "
            "finetune-boxes, finetune-masks, or a TOML file."
        ),
    ] = "finetune-partial",
    *,
    set_: Overrides = None,
    group_by: GroupBy = None,
    beside_scratch: Annotated[
        bool,
        typer.Option(
            "--beside-scratch", help="Train the same network from nothing, too, and compare."
        ),
    ] = False,
    progress_file: ProgressFile = None,
) -> None:
    """Train a model of labels (which kind is it, and where?) from a pretrained encoder."""
    from training.finetune.config import load_finetune
    from training.finetune.data import labelled_set
    from training.finetune.pipeline import finetune as run
    from training.finetune.report import summary
    from training.outputs import check_model
    from training.progress import progress_to

    config = load_finetune(recipe, set_ or ())
    check_model(out, [data, init], config.task)
    labelled = labelled_set(data, group_by, config.run.seed)
    bundle = run(
        labelled,
        init,
        out,
        config,
        beside_scratch=beside_scratch,
        progress=progress_to(progress_file),
    )
    typer.echo(summary(bundle.card["training"]))
    typer.echo(f"saved {out}, version {bundle.version}")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Trained model folders, or their .run folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Draw the losses to this picture (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Put trainings side by side: figures, settings that differ, losses."""
    from training.compare import check_picture, draw, read_run, table

    if out is not None:
        check_picture(out)
    figures = [read_run(run) for run in runs]
    typer.echo(table(figures))
    if out is not None:
        draw(figures, out)
        typer.echo(f"losses: {out}")


def sweep(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trials and the study.")],
    recipe: Annotated[
        str, typer.Option(help="Recipe name or TOML file with a [sweep] table of ranges.")
    ] = "sweep",
    *,
    trials: Annotated[int, typer.Option(help="How many to add.", min=1)] = 20,
    set_: Overrides = None,
) -> None:
    """Try a recipe's declared ranges, choosing on normal images and synthetic defects only."""
    from training.data import open_dataset
    from training.outputs import SWEEP, check_own_folder
    from training.sweep import sweep as run

    check_own_folder(out, SWEEP, [data])
    best = run(open_dataset(data), out, recipe, tuple(set_ or ()), trials=trials)
    typer.echo(
        f"best: trial {best.number}, synthetic AUROC {best.value:.3f}, {out}/trial-{best.number}"
    )
    settings = [*(set_ or ()), *best.overrides]
    flags = " ".join(f"--set '{setting}'" for setting in settings)
    typer.echo(f"again with: maskline train {data} --out MODEL --recipe {recipe} {flags}")


def pack(
    data: Annotated[list[Path], typer.Argument(help="Folders of images of any depth, sets.")],
    out: Annotated[Path, typer.Option(help="New folder for the shards.")],
    per_shard: Annotated[int, typer.Option(help="Images in a shard.", min=1)] = 10_000,
) -> None:
    """Write images into WebDataset shards: millions of files read fastest from few."""
    from tempfile import TemporaryDirectory

    from tqdm import tqdm

    from training.index import indexed
    from training.outputs import check_new_folder
    from training.shards import pack as write

    check_new_folder(out, data)
    with TemporaryDirectory() as folder:
        samples = indexed(data, Path(folder))
        paths = (sample.path for sample in samples)
        shards = write(tqdm(paths, total=len(samples), unit="image"), out, per_shard)
        typer.echo(f"{len(samples)} images in {shards} shards in {out}")


def import_mae(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Official .pth with its decoder, .safetensors, or a folder saved by transformers "
            "(ViTMAEForPreTraining)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    norm_pixels: Annotated[
        bool,
        typer.Option(
            "--norm-pixels",
            help="The weights predict patches standardised by themselves (norm_pix_loss); a "
            "transformers folder says so itself.",
        ),
    ] = False,
) -> None:
    """Make a model of public masked-autoencoder weights; next calibrate it on normal images.

    Of a classifier's weights it makes a model of labels, which answers as it is.
    """
    from training.finetune.official import has_head
    from training.outputs import check_model
    from training.pipeline import import_model
    from training.pretrained import MaeChoices

    if has_head(checkpoint):
        from training.finetune.pipeline import import_head

        check_model(out, [checkpoint], "classification")
        typer.echo(f"saved {out}, version {import_head(checkpoint, out).version}")
        return
    check_model(out, [checkpoint])
    bundle = import_model(checkpoint, out, MaeChoices(norm_patches=norm_pixels))
    typer.echo(f"saved {out}, version {bundle.version}")
    typer.echo(f"not calibrated yet: maskline calibrate {out} NORMALS")


def export(model: Model) -> None:
    """Add an ONNX graph to a model; the service then uses it on a CPU."""
    from supervised.bundle import is_supervised
    from training.outputs import check_changed_model
    from training.pipeline import export_folder

    check_changed_model(model)
    if is_supervised(model):
        from training.finetune.pipeline import export_folder as export_labels

        typer.echo(f"exported {model}, version {export_labels(model).version}")
        return
    bundle, exported = export_folder(model)
    typer.echo(f"exported {model}, version {bundle.version}")
    typer.echo(f"one image: {exported}")


def label(
    model: Model,
    data: Data,
    *,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled defects with their masks, beside the set of good parts; "
            "without one, the masks of the set's test split teach."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Model folder to write; without one, MODEL is replaced.")
    ] = None,
    group_by: GroupBy = None,
    skip_unreadable: Skip = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Teach a calibrated model what masks mark as defective, and calibrate it with that."""
    from anomaly.calibration_report import state
    from training.labelling import Labelling, label_folder
    from training.outputs import check_changed_model, check_model

    if output is None:
        check_changed_model(model)
    else:
        check_model(output, [model, data, *([masks] if masks else [])])
    how = Labelling(masks, group_by, Decoding(skip_unreadable=skip_unreadable), device)
    done = label_folder(model, data, output, how)
    calibration = done.bundle.calibration
    assert calibration is not None
    if as_json:
        report = asdict(state(calibration))
        card = {"masks": done.masks, "penalty": done.penalty, "weight": done.weight}
        print_json({"version": done.bundle.version, "labels": card, **report})
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in done.masks.items())
    typer.echo(f"labelled {output or model}, version {done.bundle.version}: {counts}")
    typer.echo(f"labels have {done.weight:.0%} of the weight")
    say_calibration(calibration)
