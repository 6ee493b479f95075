import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import maskline
from service.http.api_keys import KeyRing


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_command_makes_lists_and_revokes(
    keys_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLINE_RECORD_DIR", str(tmp_path / "results"))

    def run(*arguments: str, group: str = "key") -> str:
        result = CliRunner().invoke(maskline.app, [group, *arguments])
        assert result.exit_code == 0, result.output
        return result.output.strip()

    file = ("--keys-file", str(keys_file))
    secret = run("add", "line-3", "--role", "operate", *file)
    assert KeyRing(keys_file).find(secret) is not None
    assert run("list", *file).startswith("line-3  operate  20")
    run("revoke", "line-3", *file)
    assert json.loads(keys_file.read_text()) == {"keys": []}
    run("add", "bench", "--role", "view", "--role", "score", "--role", "view", *file)
    assert run("list", *file).startswith("bench  view,score  20")
    run("add", "camera", *file)
    assert "camera  score  20" in run("list", *file)
    shown = run("show", group="audit")
    assert "key_add  line-3  role=operate" in shown
    assert "key_revoke  line-3" in shown
    assert "key_add  bench  role=view,score" in shown
    assert secret not in shown
    assert run("verify", group="audit").startswith("4 rows, unbroken")
    assert CliRunner().invoke(maskline.app, ["key", "add", "x", "--role", "king"]).exit_code == 2
