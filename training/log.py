"""The run's log: JSON Lines for programs, TensorBoard for people."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Writes one JSON object per logged step to `log.jsonl`, and scalars to TensorBoard."""

    def __init__(self, folder: Path, start_step: int, *, tensorboard: bool) -> None:
        path = folder / "log.jsonl"
        kept = _lines_before(path, start_step) if start_step else []
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = (
            SummaryWriter(folder / "tensorboard", purge_step=start_step) if tensorboard else None
        )

    def write(self, step: int, **values: float) -> None:
        """Log the figures of a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _lines_before(path: Path, step: int) -> list[str]:
    """Return the lines a resumed run keeps: those of steps that its checkpoint has seen."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
