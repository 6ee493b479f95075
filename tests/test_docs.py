"""The README and the docs must be true: commands exist, Python runs, links lead somewhere."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

import maskline
from service.errors import ServiceError
from service.http.problems import RULES
from service.settings import Settings
from tests.conftest import normal_pixels, png

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def shell_lines() -> list[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    lines = [
        line.partition("#")[0].strip() for b in blocks("bash", text) for line in b.splitlines()
    ]
    return [line for line in lines if line]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = {
        word for line in shell_lines() if line.startswith("make ") for word in line.split()[1:2]
    }
    assert {"demo", "test", "check"} <= used
    assert used <= targets


def test_every_maskline_command_parses() -> None:
    group = typer.main.get_command(maskline.app)
    lines = [line for line in shell_lines() if line.startswith("maskline ")]
    assert len(lines) >= 6
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        command = group.get_command(None, name)  # type: ignore[attr-defined, arg-type]
        assert command is not None, line
        command.make_context(name, arguments)  # raises on an option that does not exist


def test_the_python_block_runs(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [code] = blocks("python")
    shutil.copytree(tiny_folder, tmp_path / "models/bracket")
    (tmp_path / "new.jpg").write_bytes(png(normal_pixels(1)))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count(" ") >= 3


def test_the_example_answer_has_the_contracts_fields() -> None:
    example = json.loads(blocks("json")[0].replace("…", "x"))
    schema = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]
    assert set(example) <= set(schema["ScoreOut"]["properties"])
    assert set(example["regions"][0]) == set(schema["RegionOut"]["properties"])


def test_links_lead_to_files() -> None:
    for path in DOCS:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_every_setting_and_every_code_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"`{name.upper()}`" in text, name
    codes = {rule.code or getattr(kind, "code", "") for kind, rule in RULES.items()}
    codes |= {kind.code for kind in ServiceError.__subclasses__()}
    for code in codes - {"anomaly_error", "image_invalid"}:
        assert f"`{code}`" in text, code
