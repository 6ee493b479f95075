from pathlib import Path

import pytest
from typer.testing import CliRunner

from maskline import app
from tests.conftest import TINY
from training.compare import read_run
from training.config import load_recipe
from training.data import open_dataset
from training.errors import DataError
from training.pipeline import Training, train_model
from training.progress import QUIET


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", "0.001"), ("quick", "0.01")):
        changes = (
            *TINY,
            "optimiser.steps=20",
            f"optimiser.learning_rate={rate}",
            "run.log_every=5",
        )
        config = load_recipe("default", changes)
        how = Training() if name == "slow" else Training(calibration=None)
        train_model(open_dataset(tiny_data), folder / name, config, how, progress=QUIET)
    return [folder / "slow", folder / "quick"]


def test_runs_are_put_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    told = ["compare", *map(str, runs), "--out", str(tmp_path / "losses.svg")]
    answer = CliRunner().invoke(app, told)
    assert answer.exit_code == 0, answer.output
    lines = answer.output.splitlines()
    assert lines[0] == "| | slow | quick |"
    assert "| optimiser.learning_rate | 0.001 | 0.01 |" in lines
    assert "| steps | 20 | 20 |" in lines
    assert not any("optimiser.batch_size" in line for line in lines)  # the same in both
    (synthetic,) = [line for line in lines if line.startswith("| synthetic AUROC")]
    assert synthetic.endswith("| - |")  # quick was not calibrated
    assert 0.5 < float(synthetic.split("|")[2]) <= 1
    assert b"<svg" in (tmp_path / "losses.svg").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["losses.svg"]


def test_a_run_that_goes_on_still_has_its_log(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "now.run").mkdir()
    log = (runs[0].with_name("slow.run") / "log.jsonl").read_text()
    (tmp_path / "now.run/log.jsonl").write_text(log)
    found = read_run(tmp_path / "now.run")
    assert [row["step"] for row in found.log] == [5, 10, 15, 20]
    assert read_run(tmp_path / "now") == found
    with pytest.raises(DataError, match="no run at"):
        read_run(tmp_path / "none")
