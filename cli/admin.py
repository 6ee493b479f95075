"""Commands for keys, the audit trail and copies of the record."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import AsJson, KeyName, KeyRoles, KeysFile, RecordDir

keys = typer.Typer(help="API keys of the service: add, list, revoke.", no_args_is_help=True)

audit = typer.Typer(help="Who changed what: show the trail, verify it.", no_args_is_help=True)


@keys.command("add")
def key_add(name: KeyName, roles: KeyRoles = None, keys_file: KeysFile = None) -> None:
    """Make an API key and print it: it is not stored and cannot be shown again."""
    from service.http.api_keys import Role, add_key, in_order

    held = {*(roles or [Role.SCORE])}
    secret = add_key(_keys_file(keys_file), name, *held)
    typer.echo(secret)  # before anything else may fail: it cannot be shown again
    _note_change("key_add", name, role=",".join(in_order(held)))


@keys.command("list")
def key_list(keys_file: KeysFile = None) -> None:
    """List the keys' names, roles and dates."""
    from service.http.api_keys import in_order, read_keys

    for key in read_keys(_keys_file(keys_file)):
        typer.echo(f"{key.name}  {','.join(in_order(key.roles))}  {key.created}")


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


def _keys_file(path: Path | None) -> Path:
    from service.run import read_settings

    return path or read_settings().keys_file


def _record_dir(path: Path | None) -> Path:
    from service.run import read_settings

    return path or read_settings().record_dir


def _note_change(action: str, subject: str, **details: str) -> None:
    """Seal a change made from the command line into the audit trail."""
    import getpass

    from service.results.recording import audit_of
    from service.run import read_settings

    if trail := audit_of(read_settings()):
        trail.add(action, subject, getpass.getuser(), **details)
