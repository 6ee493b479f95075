import json
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from record.journal import Journal


def drain(journal: Journal, most: int = 7) -> list[int]:
    found = []
    while entries := journal.read(most):
        found += [entry.row["n"] for entry in entries]
        journal.done(entries)
    return found


def test_rows_come_back_in_order_and_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path, file_bytes=50)
    assert all(journal.append({"n": n}) for n in range(20))
    assert journal.bytes_behind > 0
    assert drain(journal) == list(range(20))
    assert journal.bytes_behind == 0
    assert journal.read(5) == []
    journal.append({"n": 20})
    assert drain(journal) == [20]
    assert len(list(tmp_path.glob("*.jsonl"))) == 1  # what the store has is gone


def test_what_the_store_lacks_outlives_a_process_that_was_killed(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for n in range(5):
        first.append({"n": n})
    first.done(first.read(2))
    with max(tmp_path.glob("*.jsonl")).open("ab") as file:
        file.write(b'{"n": 9')  # it was killed here
    second = Journal(tmp_path)
    second.append({"n": 5})
    assert drain(second) == [2, 3, 4, 5]


def test_a_lost_position_repeats_rows_rather_than_losing_them(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for n in range(4):
        first.append({"n": n})
    first.done(first.read(2))
    (tmp_path / "position.json").write_text("{")
    assert drain(Journal(tmp_path)) == [0, 1, 2, 3]


def test_a_full_journal_refuses_rows_and_takes_them_again_once_there_is_room(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, file_bytes=30, most_bytes=60)
    taken = [n for n in range(20) if journal.append({"n": n})]
    assert 0 < len(taken) < 20
    assert drain(journal) == taken
    assert journal.append({"n": 99})
    assert drain(journal) == [99]


def test_many_threads_write_whole_rows_while_one_reads(tmp_path: Path) -> None:
    journal, found = Journal(tmp_path, file_bytes=400), []
    writers = [
        threading.Thread(
            target=lambda k=k: [journal.append({"n": 100 * k + i}) for i in range(100)]
        )
        for k in range(4)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found += drain(journal)
    found += drain(journal)
    assert sorted(found) == list(range(400))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["append", "read", "reopen"]), max_size=40))
def test_whatever_happens_each_row_is_read_once(tmp_path_factory: object, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("journal")  # type: ignore[attr-defined]
    journal, written, found = Journal(folder, file_bytes=40), 0, []
    for step in steps:
        match step:
            case "append":
                assert journal.append({"n": written})
                written += 1
            case "read":
                if entries := journal.read(3):
                    found += [entry.row["n"] for entry in entries]
                    journal.done(entries)
            case "reopen":
                journal.close()
                journal = Journal(folder, file_bytes=40)
    found += drain(journal)
    assert found == list(range(written))
    kept = sum(len(json.dumps({"n": 0})) for _ in folder.glob("*.jsonl"))
    assert kept <= 40 * 2
