import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pytest

from record.keep import KeepConfig, Keeper, KeptImage, KeptStore
from tests.conftest import is_freed

NOW = datetime(2026, 3, 1, 12, 7, tzinfo=UTC)


def kept(number: int, at: datetime = NOW, size: int = 1000) -> KeptImage:
    errors = np.full((2, 3), number, np.float16)
    return KeptImage(f"{number:032x}", at, bytes(size), {"errors": errors})


def store(folder: Path, **limits: float) -> KeptStore:
    return KeptStore(str(folder), KeepConfig("all", **limits))


def test_what_is_put_is_read_again_also_after_a_restart(tmp_path: Path) -> None:
    assert store(tmp_path).put(kept(1))
    again = store(tmp_path)
    found = again.evidence(kept(1).result_id, NOW)
    assert found is not None
    np.testing.assert_array_equal(found["errors"], kept(1).evidence["errors"])
    assert again.image(kept(1).result_id, NOW) == bytes(1000)
    assert again.evidence(kept(2).result_id, NOW) is again.image(kept(2).result_id, NOW) is None
    assert again.bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def test_the_address_may_be_any_that_fsspec_knows() -> None:
    memory = KeptStore("memory://maskline-kept", KeepConfig("all"))
    memory.put(kept(1))
    assert memory.image(kept(1).result_id, NOW) == bytes(1000)
    assert memory.pin(kept(1).result_id, NOW)
    assert memory.evidence(kept(1).result_id, NOW) is not None


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.put(kept(1))
    (path,) = tmp_path.rglob("*.evidence")
    path.write_bytes(path.read_bytes()[:-3])
    assert one.evidence(kept(1).result_id, NOW) is None


def test_the_old_go_and_cases_stay(tmp_path: Path) -> None:
    one = store(tmp_path, days=10)
    for days in (0, 9, 11, 12):
        one.put(kept(days, NOW - timedelta(days=days)))
    assert one.pin(kept(12).result_id, NOW - timedelta(days=12))
    assert not one.pin(kept(99).result_id, NOW)
    one.tidy(NOW)
    there = [d for d in (0, 9, 11, 12) if one.evidence(kept(d).result_id, NOW - timedelta(days=d))]
    assert there == [0, 9, 12]
    assert store(tmp_path).bytes == one.bytes


@pytest.mark.parametrize("memory", [False, True])
def test_a_mask_lies_beside_its_pinned_image_for_good(tmp_path: Path, memory: bool) -> None:
    place = f"memory://{tmp_path}" if memory else str(tmp_path)
    store_ = KeptStore(place, KeepConfig("all", days=1))
    result_id, long_ago = kept(1).result_id, NOW - timedelta(days=9)
    store_.put(kept(1, long_ago))
    assert not store_.put_mask(result_id, b"mask")  # it could go any moment
    assert store_.mask(result_id) is None
    assert not store_.has_mask(result_id)
    assert not store_.remove_mask(result_id)
    store_.pin(result_id, long_ago)
    for mask in (b"first", b"second, longer"):
        assert store_.put_mask(result_id, mask)
        assert store_.mask(result_id) == mask
    store_.tidy(NOW)
    again = KeptStore(place, KeepConfig("none"))
    assert again.mask(result_id) == b"second, longer"
    assert again.has_mask(result_id)
    assert again.image(result_id, long_ago) == bytes(1000)
    assert store_.bytes == 0  # what is kept for good counts for nothing
    assert store_.remove_mask(result_id)
    assert not store_.has_mask(result_id)
    assert store_.image(result_id, long_ago) == bytes(1000)


def test_a_mask_is_written_while_images_are_and_never_half(tmp_path: Path) -> None:
    store_ = store(tmp_path)
    store_.put(kept(0))
    store_.pin(kept(0).result_id, NOW)
    masks = [bytes([number]) * 200_000 for number in range(1, 5)]
    assert store_.put_mask(kept(0).result_id, masks[0])
    ends = threading.Event()

    def keep_on() -> None:
        number = 1
        while not ends.is_set():
            store_.put(kept(number))
            number += 1

    keeping = threading.Thread(target=keep_on)
    keeping.start()
    with ThreadPoolExecutor(6) as pool:
        puts = [pool.submit(store_.put_mask, kept(0).result_id, mask) for mask in masks * 20]
        reads = [pool.submit(store_.mask, kept(0).result_id) for _ in range(80)]
        assert all(put.result() for put in puts)
        assert all(read.result() in masks for read in reads)
    ends.set()
    keeping.join()
    assert not list(tmp_path.rglob("*.part"))
    assert store_.image(kept(1).result_id, NOW) == bytes(1000)


def test_a_mask_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_ = store(tmp_path)
    store_.put(kept(1))
    store_.pin(kept(1).result_id, NOW)
    store_.put_mask(kept(1).result_id, b"before")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_._fs, "mv", full)
    with pytest.raises(OSError, match="No space"):
        store_.put_mask(kept(1).result_id, b"after")
    assert store_.mask(kept(1).result_id) == b"before"
    assert not list(tmp_path.rglob("*.part"))


def test_the_place_is_never_fuller_than_it_may_be(tmp_path: Path) -> None:
    one = store(tmp_path, megabytes=0.05)
    start = datetime.now(UTC) - timedelta(hours=5)
    for number in range(100):
        assert one.put(kept(number, start + timedelta(minutes=2 * number)))
        on_disk = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
        assert on_disk == one.bytes <= 50_000
    assert one.evidence(kept(99).result_id, start + timedelta(minutes=198)) is not None
    assert one.evidence(kept(0).result_id, start) is None


def test_a_flood_within_ten_minutes_is_refused_not_overrun(tmp_path: Path) -> None:
    one = store(tmp_path, megabytes=0.01)
    taken = [one.put(kept(number, datetime.now(UTC))) for number in range(20)]
    assert taken[:5] == [True] * 5
    assert not taken[-1]
    assert one.bytes <= 10_000


@pytest.mark.parametrize(
    ("policy", "ok", "ng"),
    [("all", 1.0, 1), ("anomalies", 0, 1), ("sampled", 0.25, 1), ("none", 0, 0)],
)
def test_policies(policy: str, ok: float, ng: float) -> None:
    config = KeepConfig(policy, share=0.25)  # type: ignore[arg-type]
    random = Random(0)
    ids = [f"{random.getrandbits(128):032x}" for _ in range(4000)]
    assert np.mean([config.wants(one, "OK") for one in ids]) == pytest.approx(ok, abs=0.03)
    assert np.mean([config.wants(one, "NG") for one in ids]) == ng
    assert np.mean([config.wants(one, "WARN") for one in ids]) == ng


def test_a_keeper_never_waits_and_counts_what_it_cannot_take(tmp_path: Path) -> None:
    lost: list[int] = []
    keeper = Keeper(store(tmp_path), lambda: lost.append(1))
    gate = threading.Event()

    def slow() -> KeptImage:
        gate.wait(10)
        return kept(1)

    assert keeper.keep("1", slow, 40_000_000)
    assert keeper.keep("2", lambda: kept(2), 20_000_000)
    assert not keeper.keep("3", lambda: kept(3), 20_000_000)
    gate.set()
    keeper.flush()
    assert lost == [1]
    assert keeper.keep("4", lambda: kept(4), 20_000_000)
    keeper.close()
    assert not keeper.keep("5", lambda: kept(5), 1)
    assert {p.stem for p in tmp_path.rglob("*.image")} == {kept(n).result_id for n in (1, 2, 4)}


def test_a_keeper_that_waits_holds_nothing_of_what_it_wrote(tmp_path: Path) -> None:
    keeper = Keeper(store(tmp_path), lambda: None)
    large = threading.Event()  # what `make` holds, as an inspection does its model
    gone = weakref.ref(large)

    def make(held: threading.Event = large) -> KeptImage:
        return kept(int(held.is_set()))

    keeper.keep("0", make, 1000)
    del make, large
    keeper.flush()
    assert is_freed(gone)
    keeper.close()


def test_a_place_that_fails_costs_pictures_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    one = store(tmp_path)
    keeper = Keeper(one, lambda: lost.append(1))

    def full(kept: KeptImage) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(one, "put", full)
        keeper.keep("1", lambda: kept(1), 1)
        keeper.flush()
    assert lost == [1]
    keeper.keep("2", lambda: kept(2), 1)
    keeper.close()
    assert one.evidence(kept(2).result_id, NOW) is not None
