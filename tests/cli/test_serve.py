import json
import shutil
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import invoke, overrides


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import synthetic

    small = synthetic.PartsConfig(12, 6, 4, 2, size=(120, 160))
    monkeypatch.setattr(synthetic, "PartsConfig", lambda: small)
    result = invoke("demo", "--folder", tmp_path, "--no-serve", *overrides("optimiser.steps=5"))
    assert result.exit_code == 0, result.output
    for name in ("scratch", "dent", "missing", "contamination", "crack", "image_AUROC"):
        assert name in result.output
    assert "curl -sS" in result.output
    assert "maskline serve --models" in result.output
    assert (tmp_path / "report/report.html").is_file()
    assert (tmp_path / "models/flange/manifest.json").is_file()


def test_the_demo_looks_for_its_port_before_it_trains(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke("demo", "--folder", tmp_path / "d", "--port", taken.getsockname()[1])
    assert getattr(result.exception, "code", None) == "port_in_use"
    assert not (tmp_path / "d").exists()


def test_doctor_says_what_is_there(tiny_folder: Path) -> None:
    result = invoke("doctor", "--models", tiny_folder, "--port", 0, "--json")
    findings = {row["name"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert "EfficientNet-Lite0" in findings["backbone"]["text"]
    assert "golden scores reproduced" in findings["model"]["text"]
    assert "✓" in invoke("doctor", "--port", 0).output


def test_doctor_finds_what_is_wrong(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    (tmp_path / "tiny/model.safetensors").unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke("doctor", "--models", tmp_path, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "model_corrupt" in result.output
    assert "is in use" in result.output
    assert "none in" in invoke("doctor", "--models", tmp_path / "x", "--port", 0).output
