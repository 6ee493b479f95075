"""What the sections of the GPU check share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # of the repository
Row = dict[str, Any]
Rows = Iterator[Row]


@dataclass(slots=True)
class Check:
    """What sections share: where they compute, what they found, what they leave for later."""

    folder: Path
    model: Path
    data: Path | None
    device: Any
    small: bool  # a rehearsal
    found: dict[str, Any] = field(default_factory=dict)
    peak: float = 0.0  # bf16 operations a second

    @property
    def parts(self) -> Path:
        """Drawn parts in MVTec layout; drawn when they are first asked for."""
        from training.synthetic import PartsConfig, write_parts

        folder = self.folder / "work/parts"
        if not folder.is_dir():
            for _ in write_parts(folder, PartsConfig(120, 60, 40, 8), seed=0):
                pass
        return folder
