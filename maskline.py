"""The console command: a thin front door that imports lazily from the packages.

Exit codes: 0 done; 1 `score` found at least one NG part, and nothing else; 2 wrong usage, bad input
or a broken model, with one line on standard error that names a stable code; 70 a fault of ours,
with its traceback; 130 interrupted; 141 whoever read the output is gone.
"""

import contextlib
import io
import json
import logging
import os
import select
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

BAD_INPUT, FAULT, READER_GONE = 2, 70, 141


class Commands(TyperGroup):
    """The commands; what would end one with an exit code that means something else is told from it."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Raises `ReaderGone` or `Fault` where typer would exit with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise (ReaderGone if _reader_is_gone() else Fault)(str(error)) from error
        except (SystemExit, EOFError) as error:  # of a library: our own commands raise typer.Exit
            raise Fault(f"{type(error).__name__}: {error}") from error


class ReaderGone(Exception):
    """Nobody reads the output any more."""


class Fault(Exception):
    """Something that no command expects."""


app = typer.Typer(
    cls=Commands,
    help="Visual anomaly detection a factory line can run itself: train on good parts, serve POST /score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

keys = typer.Typer(help="API keys of the service: add, list, revoke.", no_args_is_help=True)
app.add_typer(keys, name="key")

audit = typer.Typer(help="Who changed what: show the trail, verify it.", no_args_is_help=True)
app.add_typer(audit, name="audit")

KeyName = Annotated[str, typer.Argument(help="Whose key it is: a camera PC, a person.")]
KeyRole = Annotated[
    Literal["score", "operate", "admin"],
    typer.Option(help="score: inspect. operate: switch models as well. admin: everything."),
]
KeysFile = Annotated[
    Path | None, typer.Option(help="Default: MASKLINE_KEYS_FILE, or keys.json here.")
]
RecordDir = Annotated[
    Path | None, typer.Option(help="Default: MASKLINE_RECORD_DIR, or results here.")
]
Data = Annotated[
    Path,
    typer.Argument(
        help="Set in one of the usual layouts, folder of normal images, or .jsonl manifest."
    ),
]
Model = Annotated[Path, typer.Argument(help="Model folder.")]
Rate = Annotated[
    float, typer.Option(help="Share of normal parts that may be rejected.", min=0.0, max=1.0)
]
WarnRate = Annotated[
    float | None,
    typer.Option(
        help="Answer WARN between the thresholds for this rate and for the false-alarm rate.",
        min=0.0,
        max=1.0,
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="What counts as one independent part: image, session, folder, or a regular expression "
        "on the path whose first group is the session."
    ),
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Skip files that cannot be read.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override of the recipe, key.sub=value.")
]


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "default",
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    calibrate: Annotated[
        bool, typer.Option(help="Calibrate on the validation split when trained.")
    ] = True,
    false_alarm_rate: Rate = 0.01,
    warn_rate: WarnRate = None,
    group_by: GroupBy = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Model to start from, as maskline pretrain makes it: fewer images do."),
    ] = None,
    skip_unreadable: Skip = False,
) -> None:
    """Train a model on defect-free images and calibrate it on held-out ones."""
    from anomaly.calibration import CalibrationSettings
    from training.config import load_recipe
    from training.data import open_dataset
    from training.outputs import check_model, check_run
    from training.pipeline import Training, run_folder, train_model
    from training.world import joined

    config = load_recipe(recipe, set_ or ())
    wanted = CalibrationSettings(false_alarm_rate, warn_rate) if calibrate else None
    how = Training(resume, wanted, group_by, init, skip_unreadable)
    with joined(config.run.device) as world:
        dataset = open_dataset(data, group_by)
        if world.is_first:
            folders = {sample.path.parent: sample.path for sample in dataset.samples}
            check_model(out, [data, *folders.values(), *([init] if init else [])])
            check_run(run_folder(out))
        bundle = train_model(dataset, out, config, how, world=world)
    if not world.is_first:
        return
    typer.echo(f"saved {out}, version {bundle.version}")
    if bundle.calibration is None:
        typer.echo(f"not calibrated yet: maskline calibrate {out} NORMALS")
    else:
        _say_calibration(bundle.calibration)


@app.command()
def pretrain(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of normal images of any depth, sets, manifests; or WebDataset shards (.tar)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "pretrain",
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    relist: Annotated[
        bool, typer.Option("--relist", help="List the folders anew: images came or went.")
    ] = False,
) -> None:
    """Train an autoencoder on normal images of many products, to start others from (train --init)."""
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


@app.command()
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
    found = [read_run(run) for run in runs]
    typer.echo(table(found))
    if out is not None:
        draw(found, out)
        typer.echo(f"losses: {out}")


@app.command()
def sweep(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trials and the study.")],
    recipe: Annotated[
        str, typer.Option(help="Recipe name or TOML file with a [sweep] table of ranges.")
    ] = "sweep",
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
    told = " ".join(f"--set '{setting}'" for setting in settings)
    typer.echo(f"again with: maskline train {data} --out MODEL --recipe {recipe} {told}")


@app.command()
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


@app.command()
def calibrate(
    model: Model,
    normals: Annotated[
        Path, typer.Argument(help="Held-out normal images: a folder, a set, or a manifest.")
    ],
    false_alarm_rate: Rate = 0.01,
    warn_rate: WarnRate = None,
    roi: Annotated[
        Path | None,
        typer.Option(
            help="What counts in an image: JSON of polygons (include, ignore), or a mask image. 'none' "
            "takes away the one from before, which is kept otherwise."
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
        Recalibration(false_alarm_rate, warn_rate, roi, camera),
        group_by=group_by,
        skip_unreadable=skip_unreadable,
        device=device,
    )
    if as_json:
        report = asdict(state(done.calibration, done.before))
        listing = images.listing.as_dict()
        _print_json({"version": done.bundle.version, "camera": camera, "data": listing, **report})
        return
    typer.echo(f"calibrated {model}, version {done.bundle.version}")
    _say_calibration(done.calibration, done.before)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file ('-': print).")
    ] = None,
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
        open_dataset(data),
        json_file=None if to_stdout else json_file,
        report=report,
        skip_unreadable=skip_unreadable,
        device=device,
    )
    if to_stdout:
        _print_json(figures)
        return
    typer.echo(format_table(figures))
    if page is not None:
        typer.echo(f"report: {page}")


@app.command()
def score(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    heatmaps: Annotated[
        Path | None, typer.Option(help="Write an overlay for each image to this folder.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Append JSON lines to this file, skipping the images it has already."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score images; exit code 1 when any is NG, 2 when any cannot be read."""
    from tqdm import tqdm

    from training.outputs import HEATMAPS, check_own_file, check_own_folder
    from training.scoring import is_records, read_done, score_files

    if heatmaps is not None:
        check_own_folder(heatmaps, HEATMAPS, [model, *images])
    if out is not None:
        check_own_file(out, is_records)
    ng = unreadable = count = 0
    done = set() if out is None else read_done(out)
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


@app.command()
def serve(
    models: Annotated[
        Path | None, typer.Option(help="A model folder, or a folder of models.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve without API keys: to whoever reaches the port.")
    ] = False,
) -> None:
    """Serve models over HTTP; everything else is set by MASKLINE_* in the environment."""
    from service.run import serve as run

    auth = "off" if no_auth else None
    given = {"models_dir": models, "host": host, "port": port, "device": device, "auth": auth}
    run(**{name: value for name, value in given.items() if value is not None})


@keys.command("add")
def key_add(name: KeyName, role: KeyRole = "score", keys_file: KeysFile = None) -> None:
    """Make an API key and print it: it is not stored and cannot be shown again."""
    from service.http.api_keys import Role, add_key

    secret = add_key(_keys_file(keys_file), name, Role[role.upper()])
    typer.echo(secret)  # before anything else may fail: it cannot be shown again
    _note_change("key_add", name, role=role)


@keys.command("list")
def key_list(keys_file: KeysFile = None) -> None:
    """List the keys' names, roles and dates."""
    from service.http.api_keys import read_keys

    for key in read_keys(_keys_file(keys_file)):
        typer.echo(f"{key.name}  {key.role.name.lower()}  {key.created}")


@keys.command("revoke")
def key_revoke(name: KeyName, keys_file: KeysFile = None) -> None:
    """Remove a key; a running service takes notice by its next request."""
    from service.http.api_keys import revoke_key

    revoke_key(_keys_file(keys_file), name)
    _note_change("key_revoke", name)


@audit.command("verify")
def audit_verify(folder: RecordDir = None) -> None:
    """Check that no row of the trail was altered, removed or put in between."""
    from record.audit import Audit

    head = Audit(_record_dir(folder)).verify()
    typer.echo(f"{head.number} rows, unbroken; the last is sealed with {head.hash}")


@audit.command("show")
def audit_show(folder: RecordDir = None, as_json: AsJson = False) -> None:
    """List who changed what, the oldest first."""
    from record.audit import Audit

    for row in Audit(_record_dir(folder)).rows():
        details = " ".join(f"{key}={value}" for key, value in row["details"].items())
        line = f"{row['at']}  {row['by']}  {row['action']}  {row['subject']}  {details}"
        typer.echo(json.dumps(row) if as_json else line)


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(help="A new folder for the copy.")],
    folder: RecordDir = None,
) -> None:
    """Copy results, journal, audit trail and cases, also while the service runs."""
    from record.backup import backup as copy
    from training.outputs import check_new_folder

    record = _record_dir(folder)
    check_new_folder(out, [record])
    copied = copy(record, out)
    typer.echo(f"{out}: {copied.audit_rows} audit rows, unbroken; {copied.cases} files of cases")
    if copied.results is None:
        typer.echo(
            "results are not in SQLite here: back up their database with its own means (pg_dump)"
        )
    else:
        typer.echo(f"{copied.results} results, and a journal of {copied.journal_files} files")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to work.")] = Path("maskline-demo"),
    serve: Annotated[bool, typer.Option(help="Serve the model at the end.")] = True,
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 8000,
    recipe: Annotated[str, typer.Option(help="Recipe name or TOML file.")] = "demo",
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do the whole job on drawn parts: generate, train, calibrate, evaluate, serve."""
    from service.run import free_port
    from training.config import load_recipe
    from training.demo import run_demo
    from training.evaluate import format_table
    from training.synthetic import PartsConfig

    if serve:
        free_port("127.0.0.1", port).close()  # better to fail now than after the training
    config = load_recipe(recipe, set_ or ())
    made = run_demo(folder, config, PartsConfig(), say=lambda line: typer.echo(line, err=True))
    if as_json:
        _print_json(made.figures)
    else:
        typer.echo("\n" + format_table(made.figures))
        typer.echo(f"\nreport and pictures: {made.report}")
    typer.echo("Try it, from another terminal:" if serve else "To serve the model:", err=True)
    command = f"    maskline serve --models {made.models} --port {port} --no-auth\n"
    typer.echo(("" if serve else command) + f"    {curl_line(made.example, port)}", err=True)
    if serve:
        from service.run import serve as run

        record_dir = made.models.parent / "results"
        run(
            models_dir=made.models,
            host="127.0.0.1",
            port=port,
            auth="off",
            record_dir=record_dir,
        )


@app.command()
def export(model: Model) -> None:
    """Add an ONNX graph to a model; the service then uses it on a CPU."""
    from training.outputs import check_changed_model
    from training.pipeline import export_folder

    check_changed_model(model)
    bundle, exported = export_folder(model)
    typer.echo(f"exported {model}, version {bundle.version}")
    typer.echo(
        f"one image: {exported.model_ms:.1f} ms by torch, {exported.graph_ms:.1f} ms by ONNX "
        "Runtime"
    )


@app.command("import-mae")
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
    """Make a model of public masked-autoencoder weights; calibrate it on your normal images next."""
    from training.outputs import check_model
    from training.pipeline import import_model
    from training.pretrained import MaeChoices

    check_model(out, [checkpoint])
    bundle = import_model(checkpoint, out, MaeChoices(norm_patches=norm_pixels))
    typer.echo(f"saved {out}, version {bundle.version}")
    typer.echo(f"not calibrated yet: maskline calibrate {out} NORMALS")


@app.command()
def doctor(
    models: Annotated[Path | None, typer.Option(help="Also check the models here.")] = None,
    port: Annotated[int, typer.Option(help="Port the service would use.")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, what would be used, and what is missing."""
    from training.doctor import examine

    findings = examine(models, port)
    if as_json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.mark}  {finding.name:<14}{finding.text}")
    if any(finding.is_problem for finding in findings):
        raise typer.Exit(2)


def _keys_file(given: Path | None) -> Path:
    from service.run import read_settings

    return given or read_settings().keys_file


def _record_dir(given: Path | None) -> Path:
    from service.run import read_settings

    return given or read_settings().record_dir


def _note_change(action: str, subject: str, **details: str) -> None:
    """Seal a change made from the command line into the audit trail."""
    import getpass

    from service.results.recording import audit_of
    from service.run import read_settings

    if trail := audit_of(read_settings()):
        trail.add(action, subject, getpass.getuser(), **details)


def curl_line(image: Path, port: int) -> str:
    """Return the exact command that scores an image."""
    return (
        f"curl -sS -H 'Content-Type: image/jpeg' --data-binary @{image} "
        f"'http://127.0.0.1:{port}/score?part_id=demo-1&heatmap=none'"
    )


def main() -> None:
    """Run a command; every error of ours is one line that says what to do."""
    from service.logs import TEXT

    logging.basicConfig(level=logging.INFO, format=TEXT)
    # Alembic tells of every plug-in it finds, when it is imported.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(READER_GONE)
    except Exception as error:  # noqa: BLE001 - the last one: only an NG part may exit with 1
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    """Say what went wrong; returns the exit code."""
    code = "file_unusable" if isinstance(error, OSError) else getattr(error, "code", None)
    if isinstance(code, str):
        typer.echo(f"error [{code}]: {error}", err=True)
        return BAD_INPUT
    traceback.print_exception(error)
    name = type(error).__name__
    typer.echo(
        f"error [internal]: {name}: {error}. This is a fault of ours; report it with the lines "
        "above",
        err=True,
    )
    return FAULT


def _reader_is_gone() -> bool:
    """Whether the other end of the standard output is closed."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file stands behind it
        return False


def _say_calibration(calibration: Any, before: Any = None) -> None:
    from anomaly.calibration_report import state

    rate = calibration.false_alarm_rate
    typer.echo(f"threshold {calibration.threshold:.4f} for a false-alarm rate of {rate:.2%}")
    for line in state(calibration, before).messages:
        typer.echo(line)


def _score_line(row: dict[str, Any]) -> str:
    from training.samples import printable

    image = printable(row["image"])
    if row["status"] == "error":
        return f"ERROR  {image}: {printable(row['detail'])}"
    unlike = "".join(f"\n       ! {one['text']}" for one in row.get("warnings", ()))
    return f"{row['verdict']:<5}  {row['score']:8.3f}  p={row['p_value']:.4f}  {image}{unlike}"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


if __name__ == "__main__":
    main()
