"""What was found, as JSON and as tables."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from bench.gpu.check import Check, Row


def write(check: Check) -> None:
    """Write what was found so far, as JSON and as tables."""
    text = json.dumps(check.found, indent=1, default=str)
    (check.folder / "gpu.json").write_text(text + "\n", encoding="utf-8")
    lines = [line for name, section in check.found.items() for line in _lines(name, section)]
    (check.folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(name: str, section: dict[str, Any]) -> Iterator[str]:
    taken_text = f" ({section['seconds']:g} s)" if "seconds" in section else ""
    yield f"### {name}{taken_text}\n"
    if section.get("rows"):
        yield table(section["rows"])
    for outcome in ("error", "skipped"):
        if outcome in section:
            yield f"{outcome}: {section[outcome]}"
    yield ""


def table(rows: Sequence[Row]) -> str:
    """Lay out rows under the union of their columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)
