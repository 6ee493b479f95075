"""The commands together, and what their ends mean.

Exit codes: 0 done; 1 `score` found at least one NG part, and nothing else; 2 wrong usage, bad input
or a broken model, with one line on standard error that names a stable code; 70 a fault of ours,
with its traceback; 130 interrupted; 141 whoever read the output is gone.
"""

import io
import logging
import os
import select
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from cli import admin, kinds, labels, labels_collect, report, score, serve, train

BAD_INPUT, FAULT, READER_GONE = 2, 70, 141


class Commands(TyperGroup):
    """The commands; an error never ends one with an exit code that means something else."""

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
    help="Visual anomaly detection a factory line can run itself: "
    "train on good parts, serve POST /score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (  # in the order of the help
    train.train,
    train.pretrain,
    train.finetune,
    train.compare,
    train.sweep,
    train.pack,
    train.label,
    score.calibrate,
    score.statement,
    score.evaluate,
    score.score,
    serve.serve,
    report.report,
    admin.backup,
    serve.demo,
    train.export,
):
    app.command()(command)
app.command("import-mae")(train.import_mae)
app.command()(serve.doctor)
app.add_typer(kinds.kinds, name="kinds")
labels.labels.command("collect")(labels_collect.collect)
app.add_typer(labels.labels, name="labels")
app.add_typer(admin.keys, name="key")
app.add_typer(admin.audit, name="audit")


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
