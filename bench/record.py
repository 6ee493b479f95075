"""Keeps what a benchmark has measured, so that hours of it can be interrupted and continued."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.evaluate import save_figures


@dataclass(slots=True)
class Record:
    """Rows by method, one a seed, and the canvas of each seed; written after every row.

    All rows are of one commit: figures of two versions never share a table.
    """

    path: Path
    commit: str
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    canvases: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, *, resume: bool) -> "Record":
        """Start anew, or go on with what the same commit has measured."""
        record = cls(path, commit_of())
        if not resume or not path.is_file():
            return record
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["commit"] != record.commit:
            raise SystemExit(
                f"{path} is of commit {stored['commit']}, this is {record.commit}; "
                "check that one out to go on, or start anew without --resume"
            )
        return cls(path, record.commit, stored["rows"], stored["canvases"])

    def has(self, method: str, seed: int) -> bool:
        """Whether the method's row for this seed is there."""
        return any(row["seed"] == seed for row in self.rows.get(method, []))

    def add(self, method: str, row: dict[str, Any], canvas: int) -> None:
        """Keep a row and write the file."""
        self.rows.setdefault(method, []).append(row)
        self.canvases[str(row["seed"])] = canvas
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"commit": self.commit, "canvases": self.canvases, "rows": self.rows}
        save_figures(content, self.path)


def commit_of() -> str:
    """Return the checked-out commit, with `+` if tracked files differ; `unknown` without git."""
    described = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    described_commit = subprocess.run(described, capture_output=True, text=True, check=False)
    return described_commit.stdout.strip() or "unknown"
