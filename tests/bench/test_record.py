from pathlib import Path

import pytest

from bench import record
from bench.record import Record, commit_of


def test_a_record_goes_on_where_it_was_and_never_mixes_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "commit_of", lambda: "abc")
    path = tmp_path / "set/figures.json"
    first = Record.open(path, resume=True)
    first.add("Maskline", {"seed": 1, "image_AUROC": 0.9, "interval": (0.8, 1.0)}, 448)
    again = Record.open(path, resume=True)
    assert again.has("Maskline", 1)
    assert not again.has("Maskline", 0)
    assert not again.has("kNN", 1)
    assert again.canvases == {"1": 448}
    assert not Record.open(path, resume=False).rows
    monkeypatch.setattr(record, "commit_of", lambda: "abc+")
    with pytest.raises(SystemExit, match="is of commit abc, this is abc"):
        Record.open(path, resume=True)


def test_a_commit_is_named() -> None:
    assert commit_of()
