import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from record.journal import Entry, Journal


def numbers(entries: Sequence[Entry]) -> list[int]:
    """What rows say; lines that are none say nothing."""
    return [entry.row["n"] for entry in entries if entry.row is not None and "n" in entry.row]


def drain(journal: Journal, most: int = 7) -> list[int]:
    found = []
    while entries := journal.read(most):
        found += numbers(entries)
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
                    found += [
                        entry.row["n"]
                        for entry in entries
                        if entry.row is not None and "n" in entry.row
                    ]
                    journal.done(entries)
            case "reopen":
                journal.close()
                journal = Journal(folder, file_bytes=40)
    found += drain(journal)
    assert found == list(range(written))
    kept = sum(len(json.dumps({"n": 0})) for _ in folder.glob("*.jsonl"))
    assert kept <= 40 * 2


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.binary(max_size=12)
        | st.sampled_from([b"\0" * 512, b'{"half":1}\n', b'{"a":{"b":', b"[", b"\n"]),
        min_size=4,
        max_size=4,
    )
)
def test_whatever_lies_between_rows_each_row_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, debris: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    rows = [json.dumps({"n": n, "regions": [{"x": 1}]}).encode() + b"\n" for n in range(3)]
    between = b"".join(one for pair in zip(debris, [*rows, b""], strict=True) for one in pair)
    (folder / "00000001.jsonl").write_bytes(between)
    journal = Journal(folder)
    journal.append({"n": 3})
    assert drain(journal, 2) == [0, 1, 2, 3]
    assert journal.bytes_behind == 0


@pytest.mark.parametrize(
    "name",
    ["00000002 copy.jsonl", "x.jsonl", "000000002.jsonl", "٠٠٠٠٠٠٠٢.jsonl", "2.jsonl"],
)
def test_stray_files_are_left_alone(tmp_path: Path, name: str) -> None:
    first = Journal(tmp_path)
    first.append({"n": 0})
    (tmp_path / name).write_text('{"n": 9}\n')
    (tmp_path / "00000007.jsonl").mkdir()
    assert drain(first) == [0]
    second = Journal(tmp_path)
    second.append({"n": 1})
    assert drain(second) == [1]
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "position",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"file": 99, "offset": 0}',
        '{"file": 2, "offset": 9999}',
        '{"file": 2, "offset": 3}',
        '{"file": 2, "offset": -5}',
        '{"file": Infinity, "offset": 0}',
        '{"file": null, "offset": 0}',
    ],
    ids=lambda text: text[:30],
)
def test_a_position_that_is_none_of_the_journal_s_loses_no_row(
    tmp_path: Path, position: str
) -> None:
    first = Journal(tmp_path)
    for n in range(3):
        first.append({"n": n})
    (tmp_path / "position.json").write_text(position)
    assert drain(Journal(tmp_path)) == [0, 1, 2]
