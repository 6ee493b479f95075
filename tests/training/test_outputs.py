"""Every output path of every command, met with what must not be touched."""

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import maskline
from anomaly.errors import OutputRefused
from tests.conftest import normal_pixels, planted, png
from training.evaluate import are_figures
from training.outputs import check_model, check_own_file, check_own_folder, check_run, file_name
from training.scoring import heatmap_name, read_done, score_files

Arguments = Callable[[Path, Path], list[object]]

# Command and the parameter that names an output: its arguments, given a folder of inputs and the
# output.
FOLDERS: dict[tuple[str, str], Arguments] = {
    ("train", "out"): lambda at, out: ["train", at / "set", "--out", out],
    ("pretrain", "out"): lambda at, out: ["pretrain", at / "set", "--out", out],
    ("import-mae", "out"): lambda at, out: ["import-mae", at / "set/w.safetensors", "--out", out],
    ("finetune", "out"): lambda at, out: [
        "finetune",
        at / "set",
        "--init",
        at / "m",
        "--out",
        out,
    ],
    ("pack", "out"): lambda at, out: ["pack", at / "set", "--out", out],
    ("sweep", "out"): lambda at, out: ["sweep", at / "set", "--out", out],
    ("evaluate", "report"): lambda at, out: ["evaluate", at / "m", at / "set", "--report", out],
    ("score", "heatmaps"): lambda at, out: ["score", at / "m", at / "set", "--heatmaps", out],
    ("backup", "out"): lambda at, out: ["backup", out, "--folder", at / "set"],
    ("demo", "folder"): lambda at, out: ["demo", "--folder", out, "--no-serve"],
}
FILES: dict[tuple[str, str], Arguments] = {
    ("evaluate", "json_file"): lambda at, out: ["evaluate", at / "m", at / "set", "--json", out],
    ("score", "out"): lambda at, out: ["score", at / "m", at / "set", "--out", out],
    ("compare", "out"): lambda at, out: ["compare", at / "m", "--out", out],
    ("report", "out"): lambda at, out: ["report", "--out", out, "--folder", at / "set"],
}
# Parameters that are read, whatever their name.
READS = {("backup", "folder"), ("audit", "folder"), ("report", "folder")}

HOSTILE: dict[str, Callable[[Path], Path]] = {
    "a foreign folder": lambda at: at / "mine",
    "a foreign folder, by a link": lambda at: at / "link",
    "a foreign folder, by a way round": lambda at: at / "set/../mine",
    "the data": lambda at: at / "set",
    "what holds the data": lambda at: at,
    "a foreign file": lambda at: at / "mine/notes.txt",
    "below a file": lambda at: at / "mine/notes.txt/out",
    "a name too long": lambda at: at / ("x" * 240),
}
WITHIN = "within the data"

WORK = (
    "training.pipeline.train_model",
    "training.pipeline.evaluate_model",
    "training.pipeline.import_model",
    "training.pretrain.pretrain",
    "training.shards.pack",
    "training.sweep.sweep",
    "training.scoring.score_files",
    "training.compare.read_run",
    "training.demo.write_parts",
    "record.backup.backup",
)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inputs and foreign files; a command that begins its work on them fails the test."""
    at = tmp_path / "at"
    (at / "set").mkdir(parents=True)
    for number in range(6):
        (at / f"set/{number}.png").write_bytes(png(normal_pixels(number, (32, 32))))
    (at / "mine/photos").mkdir(parents=True)
    (at / "mine/notes.txt").write_text("only copy")
    (at / "mine/photos/1.jpg").write_bytes(b"picture")
    (at / "link").symlink_to("mine")

    def reached(*args: object, **named: object) -> None:
        pytest.fail("the work had begun")

    for name in WORK:  # all are imported first: what is bound by a later import would stay replaced
        importlib.import_module(name.rpartition(".")[0])
    importlib.import_module("training.demo")
    for name in WORK:
        monkeypatch.setattr(name, reached)
    return at


def tree(folder: Path) -> dict[str, object]:
    """Everything that can be observed of a folder's contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.lstat().st_mode
        for path in sorted(folder.rglob("*"))
    }


def refused(arguments: list[object]) -> str:
    result = CliRunner().invoke(maskline.app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, OutputRefused), (result.exception, result.output)
    return str(result.exception)


@pytest.mark.parametrize("hostile", [*HOSTILE, WITHIN])
@pytest.mark.parametrize("output", FOLDERS, ids=" ".join)
def test_no_command_writes_into_a_folder_that_is_not_its_own(
    at: Path, output: tuple[str, str], hostile: str
) -> None:
    if hostile == WITHIN and output in {("import-mae", "out"), ("demo", "folder")}:
        pytest.skip("reads no folder")
    out = at / "set/new" if hostile == WITHIN else HOSTILE[hostile](at)
    before = tree(at)
    message = refused(FOLDERS[output](at, out))
    assert "\n" not in message
    assert "choose" in message.lower() or "name a" in message or "cannot be made" in message
    assert tree(at) == before


@pytest.mark.parametrize(
    "hostile", ["a foreign file", "a foreign folder", "below a file", "a link", "a name too long"]
)
@pytest.mark.parametrize("output", FILES, ids=" ".join)
def test_no_command_writes_over_a_file_that_is_not_its_own(
    at: Path, output: tuple[str, str], hostile: str
) -> None:
    (at / "mine/losses.png").write_bytes(png(normal_pixels(1, (32, 32))))
    (at / "points-there.png").symlink_to("mine/losses.png")
    out = {
        "a foreign file": at / "mine/losses.png",
        "a foreign folder": at / "mine",
        "below a file": at / "mine/notes.txt/out.png",
        "a link": at / "points-there.png",
        "a name too long": at / ("x" * 240 + ".png"),
    }[hostile]
    before = tree(at)
    refused(FILES[output](at, out))
    assert tree(at) == before


def test_every_output_of_every_command_is_in_the_tables() -> None:
    command = typer.main.get_command(maskline.app)
    paths = set()
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        for parameter in one.params:
            if parameter.name in {"out", "report", "json_file", "heatmaps", "folder"}:
                paths.add((name, parameter.name))
    assert paths - READS == {*FOLDERS, *FILES}


def test_a_run_folder_of_somebody_else_is_refused(at: Path) -> None:
    (at / "m.run").mkdir()
    (at / "m.run/diary.txt").write_text("mine")
    refused(["train", at / "set", "--out", at / "m"])
    (at / "m.run/log.jsonl").write_text("")
    check_run(at / "m.run")


def test_a_folder_and_a_file_of_ours_may_be_written_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    (tmp_path / "left/0001.png").write_bytes(png(normal_pixels(1)))
    (tmp_path / "right/0001.png").write_bytes(png(planted(normal_pixels(2), 60, 40, 12)))
    folders = [tmp_path / "left", tmp_path / "right"]
    for _ in range(2):
        check_own_folder(tmp_path / "h", ".maskline-heatmaps", folders)
        rows = list(score_files(tiny_folder, folders, heatmaps=tmp_path / "h"))
        pictures = {row["heatmap"] for row in rows}
        assert len(pictures) == 2
        assert {str(path) for path in (tmp_path / "h").glob("*.jpg")} == pictures
    with pytest.raises(OutputRefused, match="did not write"):
        check_own_folder(tmp_path / "h", ".maskline-report", folders)


def test_a_place_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for check in (lambda out: check_model(out, ()), lambda out: check_own_file(out, are_figures)):
        with pytest.raises(OutputRefused, match="written to"):
            check(tmp_path / "new" / "deep")


def test_a_model_is_not_written_where_one_stands_or_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputRefused, match="folder you are in"):
        check_model(Path(), ())
    with pytest.raises(OutputRefused, match="hidden"):
        check_model(tmp_path / ".model", ())


@pytest.mark.parametrize("content", ["hello", '{"image": 7', "[1]\n", '{"image": "x"}\n', "\0\0"])
def test_a_file_of_something_else_is_never_cut(at: Path, content: str) -> None:
    (at / "f.jsonl").write_text(content)
    refused(["score", at / "m", at / "set", "--out", at / "f.jsonl"])
    assert (at / "f.jsonl").read_text() == content


def test_rows_of_ours_before_something_else_are_not_cut(tmp_path: Path) -> None:
    row = json.dumps({"image": "a", "status": "ok"}) + "\n"
    (tmp_path / "f.jsonl").write_text(row + "and a note of mine")
    with pytest.raises(Exception, match="stays as it is"):
        read_done(tmp_path / "f.jsonl")
    assert (tmp_path / "f.jsonl").read_text() == row + "and a note of mine"


@given(st.lists(st.text(max_size=300), min_size=1, max_size=3, unique=True))
def test_any_text_becomes_a_name_of_its_own(texts: list[str]) -> None:
    names = [file_name(text) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert Path(name).name == name
        assert name[0] not in ".-_"
        assert len(name.encode()) <= 160
    if len(texts) > 1:
        assert file_name(*texts[:2]) != file_name("".join(texts[:2]))


@pytest.mark.parametrize(
    ("first", "second"),
    [("left/0001.jpg", "right/0001.jpg"), ("a.jpg", "a.png"), ("a.jpg", "A.jpg"), ("a b", "a_b")],
)
def test_two_images_have_two_heatmaps(first: str, second: str) -> None:
    assert heatmap_name(Path(first)).lower() != heatmap_name(Path(second)).lower()
    assert heatmap_name(Path(first)) == heatmap_name(Path(first))
