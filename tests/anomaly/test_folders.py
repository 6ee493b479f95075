import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly import folders
from anomaly.folders import is_plain_name, recover, recover_all, replace_folder

OURS = ("manifest.json", "weights")

# Replaces a folder and dies before the n-th call that changes a name on the disk.
_KILLED = """
import os, shutil, sys
from pathlib import Path
from anomaly import folders
parent, at, exchanges = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
calls = 0
def counted(function):
    def call(*args, **named):
        global calls
        if calls == at:
            os._exit(9)
        calls += 1
        return function(*args, **named)
    return call
folders._exchange = counted(folders._exchange) if exchanges else (lambda a, b: False)
Path.rename, os.link = counted(Path.rename), counted(os.link)
os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
folders.replace_folder(parent / ".model.abcd1234", parent / "model", ("manifest.json", "weights"))
"""


def model(parent: Path, name: str, version: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    for file in OURS:
        (folder / file).write_text(version)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_a_folder_is_replaced_and_what_is_not_its_own_stays(tmp_path: Path) -> None:
    old, new = model(tmp_path, "model", "1"), model(tmp_path, ".model.abcd1234", "2")
    (old / "notes.txt").write_text("only copy")
    (old / "photos/deep").mkdir(parents=True)
    (old / "photos/deep/1.jpg").write_text("picture")
    (old / "link").symlink_to("nowhere")
    replace_folder(new, old, OURS)
    assert contents(old) == {
        "manifest.json": "2",
        "weights": "2",
        "notes.txt": "only copy",
        "photos/deep/1.jpg": "picture",
    }
    assert (old / "link").readlink() == Path("nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_comes_while_the_new_one_is_made_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = model(tmp_path, "model", "1"), model(tmp_path, ".model.abcd1234", "2")
    swap = folders._swap

    def late(staging: Path, folder: Path) -> Path:
        (folder / "late.txt").write_text("just now")
        return swap(staging, folder)

    monkeypatch.setattr(folders, "_swap", late)
    replace_folder(new, old, OURS)
    assert contents(old)["late.txt"] == "just now"


def test_hard_links_to_the_old_files_keep_what_they_had(tmp_path: Path) -> None:
    old, new = model(tmp_path, "model", "1"), model(tmp_path, ".model.abcd1234", "2")
    os.link(old / "weights", tmp_path / "archived")
    replace_folder(new, old, OURS)
    assert (tmp_path / "archived").read_text() == "1"


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_kill_at_any_step_leaves_one_whole_model_and_every_other_file(
    tmp_path: Path, way: str
) -> None:
    for at in range(40):
        parent = tmp_path / str(at)
        old = model(parent, "model", "1")
        model(parent, ".model.abcd1234", "2")
        (old / "notes.txt").write_text("only copy")
        command = [sys.executable, "-c", _KILLED, str(parent), str(at), way]
        code = subprocess.run(command, check=False).returncode
        assert code in (0, 9)
        if way == "exchange":
            assert old.is_dir()  # the folder was there at every moment
        recover_all(parent)
        left = contents(old)
        assert left.pop("notes.txt") == "only copy"
        assert left in (dict.fromkeys(OURS, "1"), dict.fromkeys(OURS, "2"))
        if code == 0:
            assert at > 3  # several steps were interrupted before
            return
    pytest.fail("the replacement never came to its end")


def test_only_what_is_missing_is_brought_back(tmp_path: Path) -> None:
    model(tmp_path, ".left.abcd1234.previous", "1")
    model(tmp_path, "right", "2")
    model(tmp_path, ".right.abcd1234.previous", "1")
    (tmp_path / ".mine.previous").mkdir()  # a name of somebody else's
    recover_all(tmp_path)
    assert contents(tmp_path / "left")["weights"] == "1"
    assert contents(tmp_path / "right")["weights"] == "2"
    assert (tmp_path / ".mine.previous").is_dir()
    recover(tmp_path / "none")
    recover(tmp_path / "no" / "parent")
    assert not (tmp_path / "none").exists()


@given(st.text())
def test_a_plain_name_stays_in_its_folder(text: str) -> None:
    if is_plain_name(text):
        assert Path(text).name == text
        assert text not in (".", "..")
        assert not text.startswith((".", "-"))


@pytest.mark.parametrize(
    "text", ["../x", "a/b", "", ".", "..", ".x", "a\0", "a\n", 7, None, "a" * 200]
)
def test_what_is_no_plain_name(text: object) -> None:
    assert not is_plain_name(text)
