import shutil
import threading
from pathlib import Path

import pytest

from record.audit import Audit, AuditBroken
from record.backup import BackupImpossible, backup
from record.journal import Journal
from record.store import Filter, Store
from record.writer import Writer
from tests.record.test_store import numbers, result


def writer(folder: Path) -> Writer:
    return Writer(
        Journal(folder / "journal", file_bytes=20_000),
        lambda: Store.open(f"sqlite:///{folder / 'results.db'}"),
        folder / "refused.jsonl",
    )


def test_a_copy_made_under_load_restores_to_every_result_once(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    own, trail = writer(live), Audit(live)
    stop, kept = threading.Event(), [0]

    def load() -> None:
        while not stop.is_set() and kept[0] < 20_000:
            assert own.keep(result(kept[0]))
            kept[0] += 1
            if kept[0] % 500 == 0:
                trail.add("activate", "m", None, number=kept[0])

    loader = threading.Thread(target=load)
    loader.start()
    while kept[0] < 3000:
        pass
    before = kept[0]
    copied = backup(live, copy)
    stop.set()
    loader.join()
    own.close()
    assert copied.audit_rows >= 5
    restored = writer(copy)
    restored.close()
    store = Store.open(f"sqlite:///{copy / 'results.db'}")
    found = numbers(store.page(Filter(), limit=100_000).results)
    store.close()
    assert len(found) == len(set(found))
    assert set(range(before)) <= set(found)
    assert Audit(copy).verify().number == copied.audit_rows
    assert Audit(copy).add("start", "m", None).number == copied.audit_rows + 1


def test_masks_are_copied_and_one_that_goes_meanwhile_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live"
    cases = live / "kept/cases"
    cases.mkdir(parents=True)
    for name in ("a.image", "a.mask", "b.image", "b.mask", "b.1f2e3d4c.part"):
        (cases / name).write_bytes(name.encode())
    copy2 = shutil.copy2

    def remove_before(file: str, target: str) -> str:
        (cases / "b.mask").unlink(missing_ok=True)
        return str(copy2(file, target))

    monkeypatch.setattr("record.backup.shutil.copy2", remove_before)
    assert backup(live, tmp_path / "copy").cases == 3
    copied = {path.name for path in (tmp_path / "copy/kept/cases").iterdir()}
    assert copied == {"a.image", "a.mask", "b.image"}


def test_a_copy_is_not_mixed_with_another_and_not_made_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(BackupImpossible, match="no record"):
        backup(tmp_path / "none", tmp_path / "copy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(BackupImpossible, match="not empty"):
        backup(tmp_path, tmp_path / "full")


def test_a_broken_trail_is_said_to_be_so(tmp_path: Path) -> None:
    Audit(tmp_path / "live").add("start", "m", None)
    (tmp_path / "live/audit.jsonl").write_text("{}\n")
    with pytest.raises(AuditBroken):
        backup(tmp_path / "live", tmp_path / "copy")
