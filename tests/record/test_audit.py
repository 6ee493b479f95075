import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from record.audit import Audit, AuditBroken
from record.lock import FileLock, LockHeld


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    trail = Audit(tmp_path)
    for number in range(4):
        trail.add("activate", "flange", "shift-lead", version=f"v{number}")
    return trail


def lines(folder: Path) -> list[str]:
    return (folder / "audit.jsonl").read_text().splitlines()


def write(folder: Path, rows: list[str]) -> None:
    (folder / "audit.jsonl").write_text("".join(row + "\n" for row in rows))


def test_rows_tell_who_did_what_and_are_sealed(audit: Audit) -> None:
    head = audit.verify()
    first, *_, last = audit.rows()
    assert (head.number, head.hash) == (4, last["hash"])
    assert first["by"] == "shift-lead"
    assert first["action"] == "activate"
    assert first["subject"] == "flange"
    assert first["details"] == {"version": "v0"}


def test_an_empty_trail_is_whole(tmp_path: Path) -> None:
    assert Audit(tmp_path).verify().number == 0


def test_an_altered_row_is_found(audit: Audit, tmp_path: Path) -> None:
    rows = lines(tmp_path)
    rows[1] = rows[1].replace("shift-lead", "somebody")
    write(tmp_path, rows)
    with pytest.raises(AuditBroken, match=r"row 2 .* altered"):
        audit.verify()


def test_an_altered_row_with_a_seal_of_its_own_is_found_at_the_next(
    audit: Audit, tmp_path: Path
) -> None:
    from record.audit import _seal

    rows = [json.loads(row) for row in lines(tmp_path)]
    rows[1]["by"] = "somebody"
    rows[1]["hash"] = _seal(rows[1])
    write(tmp_path, [json.dumps(row) for row in rows])
    with pytest.raises(AuditBroken, match="row 3"):
        audit.verify()


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_row_is_found_the_last_one_too(
    audit: Audit, tmp_path: Path, missing: int
) -> None:
    rows = lines(tmp_path)
    del rows[missing]
    write(tmp_path, rows)
    with pytest.raises(AuditBroken):
        audit.verify()


def test_half_a_row_is_found(audit: Audit, tmp_path: Path) -> None:
    whole = (tmp_path / "audit.jsonl").read_text()
    (tmp_path / "audit.jsonl").write_text(whole[:-20])
    with pytest.raises(AuditBroken, match="row 4"):
        audit.verify()


def test_several_writers_make_one_chain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: Audit(tmp_path).add("load", f"m{n}", None), range(40)))
    assert Audit(tmp_path).verify().number == 40


def test_a_kill_between_row_and_head_is_recovered_from_and_noted(tmp_path: Path) -> None:
    trail = Audit(tmp_path)
    trail.add("start", "m", None)
    before = (tmp_path / "audit.head").read_text()
    trail.add("activate", "m", None)
    (tmp_path / "audit.head").write_text(before)  # as if killed before it was written
    with pytest.raises(AuditBroken, match="ends with row 2"):
        trail.verify()
    trail.add("rollback", "m", None)
    assert trail.verify().number == 4
    actions = [row["action"] for row in trail.rows()]
    assert actions == ["start", "activate", "recovered", "rollback"]


def test_half_a_row_is_cut_off_and_noted(tmp_path: Path) -> None:
    trail = Audit(tmp_path)
    trail.add("start", "m", None)
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"action": "acti')
    trail.add("activate", "m", None)
    assert trail.verify().number == 3
    assert [row["action"] for row in trail.rows()] == ["start", "recovered", "activate"]


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_that_were_put_at_the_end_are_not_recovered(tmp_path: Path, rows: int) -> None:
    trail = Audit(tmp_path)
    trail.add("start", "m", None)
    with (tmp_path / "audit.jsonl").open("a") as file:
        for number in range(rows):
            file.write(json.dumps({"number": 2 + number, "before": "0" * 64, "hash": "1"}) + "\n")
    trail.add("activate", "m", None)
    with pytest.raises(AuditBroken):
        trail.verify()


def test_a_trail_that_somebody_holds_is_an_error_in_time(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("record.audit._LOCK_S", 0.1)
    holder = FileLock(tmp_path / "audit.lock")
    holder.acquire()
    with pytest.raises(LockHeld, match="process"):
        audit.add("activate", "flange", None)
    holder.release()
    assert audit.add("activate", "flange", None).number == 5


def test_a_trail_that_was_deleted_is_missed(audit: Audit, tmp_path: Path) -> None:
    for name in ("audit.jsonl", "audit.head"):
        (tmp_path / name).unlink()
    with pytest.raises(AuditBroken, match="4 or more are gone"):
        audit.verify()
    audit.add("start", "flange", None)  # a service that starts on what is left does not hide it
    with pytest.raises(AuditBroken, match="3 or more are gone"):
        audit.verify()
    for number in range(4):
        audit.add("activate", "flange", None, version=f"v{number}")
    with pytest.raises(AuditBroken, match=r"row 4 .* is not the one that was written"):
        audit.verify()


def test_a_trail_cut_back_with_its_head_is_missed(audit: Audit, tmp_path: Path) -> None:
    rows = lines(tmp_path)[:2]
    write(tmp_path, rows)
    (tmp_path / "audit.head").write_text(f"2 {json.loads(rows[1])['hash']}\n")
    with pytest.raises(AuditBroken, match="2 or more are gone"):
        audit.verify()


def test_results_without_any_trail_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"")
    with pytest.raises(AuditBroken, match="there are results"):
        Audit(tmp_path).verify()


def test_a_witness_that_a_kill_left_behind_goes_on(audit: Audit, tmp_path: Path) -> None:
    witness = tmp_path / "journal/audit.witness"
    before = witness.read_text()
    audit.add("start", "flange", None)
    witness.write_text(before)  # the process died between the row and its witness
    audit.add("start", "flange", None)
    assert audit.verify().number == 6
    assert witness.read_text() == (tmp_path / "audit.head").read_text()


def test_a_copy_has_a_witness_of_its_own(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    audit.copy(tmp_path / "copy")
    (tmp_path / "copy/audit.jsonl").unlink()
    (tmp_path / "copy/audit.head").unlink()
    with pytest.raises(AuditBroken, match="gone"):
        Audit(tmp_path / "copy").verify()


def test_the_newest_rows_of_a_subject_come_first(audit: Audit) -> None:
    audit.add("rollback", "bracket", None, version="v9")
    assert [row["number"] for row in audit.newest(3)] == [5, 4, 3]
    assert [row["details"]["version"] for row in audit.newest(2, "flange")] == ["v3", "v2"]
    assert [row["number"] for row in audit.newest(100)] == [5, 4, 3, 2, 1]
    assert audit.newest(100, "nobody") == []


def test_rows_are_read_across_blocks_and_no_further_than_the_tail(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("record.audit._BLOCK_BYTES", 7)
    assert [row["number"] for row in audit.newest(100)] == [4, 3, 2, 1]
    last_line = len((audit._rows).read_bytes().splitlines()[-1])
    monkeypatch.setattr("record.audit._MOST_TAIL_BYTES", last_line + 20)
    assert [row["number"] for row in audit.newest(100)] == [4]


def test_half_a_row_and_an_altered_one_are_not_shown(audit: Audit, tmp_path: Path) -> None:
    rows = lines(tmp_path)
    write(tmp_path, [*rows[:2], rows[2].replace("v2", "v7"), rows[3], "[]", rows[3][:40]])
    assert [row["number"] for row in audit.newest(100)] == [4, 2, 1]


def test_no_trail_has_no_rows(tmp_path: Path) -> None:
    assert Audit(tmp_path / "nowhere").newest(10) == []
