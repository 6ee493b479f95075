"""The run's log: JSON Lines for programs, TensorBoard for people."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from torch.utils.tensorboard import SummaryWriter

from training.config import RunConfig
from training.errors import RecipeError


class RunLog:
    """Writes one JSON object per logged step to `log.jsonl`, and scalars to TensorBoard and MLflow.

    Only the first of several processes has its log `on`.
    """

    def __init__(
        self, folder: Path, start_step: int, config: RunConfig, *, on: bool = True
    ) -> None:
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._tracked: MlflowRun | None = None
        if not on:
            return
        path = folder / "log.jsonl"
        earlier = _lines_before(path, start_step) if start_step else []
        path.write_text("".join(earlier), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        if config.tensorboard:
            self._board = SummaryWriter(folder / "tensorboard", purge_step=start_step)
        if config.mlflow:
            self._tracked = MlflowRun(config.mlflow, folder, resume=start_step > 0)

    def write(self, step: int, **values: float) -> None:
        """Log the figures of a step."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._tracked is not None:
            self._tracked.write(step, values)

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._tracked is not None:
            self._tracked.close(failed=error is not None)


class MlflowRun:
    """An MLflow run, at a server or in its own folder; a resumed run goes on in the same one."""

    def __init__(self, where: str, folder: Path, *, resume: bool) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise RecipeError(
                "run.mlflow is set, but MLflow is not installed: pip install 'maskline[tracking]'"
            ) from error
        self._client = MlflowClient(tracking_uri=where)
        note = folder / "mlflow.run"
        if resume and note.is_file():
            self._run = note.read_text(encoding="utf-8")
            return
        experiment = self._client.get_experiment_by_name("maskline")
        identity = (
            self._client.create_experiment("maskline")
            if experiment is None
            else experiment.experiment_id
        )
        name = folder.name.removesuffix(".run")
        self._run = self._client.create_run(identity, run_name=name).info.run_id
        note.write_text(self._run, encoding="utf-8")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the figures of a step."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, *, failed: bool) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _lines_before(path: Path, step: int) -> list[str]:
    """Return the lines a resumed run keeps: those of steps that its checkpoint has seen."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
