"""A copy of the record while it is written to: audit trail, journal, SQLite's file, cases.

The copy has the record's own layout: to restore it, stop the service, put it in the record's place
and start. The journal is copied before the database, so that a result is in one of them or in both;
the store takes it once.
"""

import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from record.audit import Audit

_DATABASE = "results.db"


class BackupImpossible(Exception):
    """The copy cannot be made there; `code` is stable."""

    code = "backup_impossible"


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds; `results` is None where they are in another database."""

    audit_rows: int
    journal_files: int
    results: int | None
    cases: int


def backup(record: Path, out: Path) -> Copied:
    """Copy a record into a new folder. Raises `BackupImpossible` or `OSError`."""
    if not record.is_dir():
        raise BackupImpossible(f"there is no record in {record.absolute()}")
    if out.exists() and any(out.iterdir()):
        raise BackupImpossible(f"{out} is not empty; name a new folder, so that no copy is mixed")
    out.mkdir(parents=True, exist_ok=True)
    rows = Audit(record).copy(out)
    files = _journal(record / "journal", out / "journal")
    results = _database(record / _DATABASE, out / _DATABASE)
    cases = _folder(record / "kept/cases", out / "kept/cases")
    return Copied(rows.number, files, results, cases)


def _journal(source: Path, target: Path) -> int:
    """Copy the position, then the files: one that goes meanwhile is in the database."""
    target.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        shutil.copy2(source / "position.json", target)
    copied = 0
    for file in sorted(source.glob("[0-9]*.jsonl")):
        with suppress(FileNotFoundError):
            shutil.copy2(file, target)
            copied += 1
    return copied


def _database(source: Path, target: Path) -> int | None:
    if not source.exists():
        return None
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        count: int = copy.execute("SELECT count(*) FROM results").fetchone()[0]
        return count


def _folder(source: Path, target: Path) -> int:
    if not source.is_dir():
        return 0
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns("*.part"), copy_function=_copy_if_there
    )
    return sum(1 for _ in target.iterdir())


def _copy_if_there(file: str, target: str) -> None:
    """Copy a file; a mask may be removed meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copy2(file, target)
