"""A set to learn from, of what people said of recorded parts."""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from record.keep import KeepConfig, KeptImage, KeptStore
from record.result import Feedback
from record.store import Store
from tests.cli.conftest import invoke
from tests.conftest import jpeg, normal_pixels, planted, png
from tests.record.test_store import NOON, result
from tests.service.routes.test_results import BAD, results, served
from training.data import listed, open_dataset, read_mask
from training.kind_folders import kind_of_folder

SIZE = (96, 128)


def mask_png(marked: np.ndarray) -> bytes:
    return cv2.imencode(".png", marked.astype(np.uint8) * 255)[1].tobytes()


MARKED = np.zeros(SIZE, bool)
MARKED[20:60, 70:90] = True
MASK = mask_png(MARKED)


class Record:
    """A record's folder; `add` inspects a part and says of it what somebody said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.store = Store.open(f"sqlite:///{folder / 'results.db'}")
        self.kept = KeptStore(str(folder / "kept"), KeepConfig("all"))
        self.count = 0

    def add(
        self,
        kind: str | None,
        defect: str | None = None,
        *,
        image: bytes | None = BAD,
        mask: bytes | None = None,
        **changes: Any,
    ) -> str:
        self.count += 1
        part = result(self.count, **({"verdict": "NG", "kept": True} | changes))
        self.store.add([part])
        if image is not None:
            evidence = {"errors": np.zeros(1, np.float16)}
            self.kept.put(KeptImage(part.result_id, part.inspected_at, image, evidence))
        if kind is not None:
            self.say(part.result_id, kind, defect)
        if mask is not None:
            self.kept.pin(part.result_id, NOON)
            assert self.kept.put_mask(part.result_id, mask)
        return part.result_id

    def say(self, result_id: str, kind: str, defect: str | None = None) -> None:
        at = datetime.now(UTC)
        said = Feedback(result_id=result_id, created_at=at, kind=kind, defect=defect)
        self.store.add_feedback(said)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def code(done: Any) -> str:
    return getattr(done.exception, "code", "")


def test_the_last_word_decides_where_a_part_lies(record: Record, tmp_path: Path) -> None:
    scratch = record.add("confirmed_defect", "scratch", mask=MASK)
    missed = record.add("missed_defect", "dent", verdict="OK", image=jpeg(normal_pixels(1)))
    alarm = record.add("false_alarm", image=png(normal_pixels(2)))
    good = record.add("confirmed_good", verdict="OK", image=png(normal_pixels(3)), mask=MASK)
    changed = record.add("false_alarm")
    record.say(changed, "confirmed_defect", "scratch")
    unnamed = record.add("confirmed_defect", " ")
    withdrawn = record.add("confirmed_defect", "scratch")
    record.say(withdrawn, "withdrawn")
    gone = record.add("confirmed_defect", "scratch", image=None)
    broken = record.add("confirmed_defect", "scratch", image=b"no picture")
    record.add(None)  # of which nobody spoke
    out = tmp_path / "set"
    done = invoke("labels", "collect", "--record", record.folder, "--output", out)
    assert done.exit_code == 0, done.output
    assert files(out) == {
        f"test/scratch/{scratch}.png",
        f"ground_truth/scratch/{scratch}_mask.png",
        f"test/scratch/{changed}.png",
        f"test/dent/{missed}.jpg",
        f"test/defect/{unnamed}.png",
        f"train/good/{alarm}.png",
        f"train/good/{good}.png",
    }
    assert (out / f"test/scratch/{scratch}.png").read_bytes() == BAD
    assert "2 good parts, 4 with a defect, 1 of those with a mask" in done.output
    assert "left out: 1: what was said was withdrawn" in done.output
    assert "left out: 1: its image is not kept" in done.output
    assert "left out: 1: its image is of no kind we read" in done.output
    assert not {gone, broken, withdrawn} & {Path(name).stem for name in files(out)}
    assert "collecting" in done.output  # how far it is
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_training_reads_what_was_collected_masks_included(record: Record, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    masks = {}
    for number in range(6):
        kind = ("scratch", "Scratch", "a/b: 2")[number % 3]
        marked = generator.random(SIZE) < 0.1
        image = png(planted(normal_pixels(100 + number), 60, 40, 10))
        masks[record.add("confirmed_defect", kind, image=image, mask=mask_png(marked))] = marked
    for number in range(12):
        record.add("confirmed_good", verdict="OK", image=png(normal_pixels(200 + number)))
    out = tmp_path / "set"
    done = invoke("labels", "collect", "--record", record.folder, "--output", out)
    assert "Scratch: 4, 4 with a mask" in done.output  # as the service counts them
    assert "a/b: 2: 2, 2 with a mask, in test/a%2Fb%3A 2" in done.output
    dataset = open_dataset(out)
    bad = [sample for sample in dataset.samples if not sample.is_normal]
    assert {kind_of_folder(sample.label) for sample in bad} == {"Scratch", "a/b: 2"}
    assert {sample.path.stem for sample in bad} == set(masks)
    for sample in bad:
        np.testing.assert_array_equal(read_mask(sample, SIZE), masks[sample.path.stem])
    good = [sample for sample in dataset.samples if sample.is_normal]
    assert len(good) == 12
    assert not any(sample.split == "test" for sample in good)


def test_a_turned_picture_fits_its_upright_mask(record: Record, tmp_path: Path) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(normal_pixels(1)).save(file, "JPEG", exif=exif)
    record.add("confirmed_defect", "dent", image=file.getvalue(), mask=mask_png(MARKED.T))
    record.add("confirmed_good", verdict="OK")
    out = tmp_path / "set"
    assert invoke("labels", "collect", "--record", record.folder, "--output", out).exit_code == 0
    (sample,) = (sample for sample in listed(out).samples if not sample.is_normal)
    np.testing.assert_array_equal(read_mask(sample, SIZE[::-1]), MARKED.T)


def test_a_damaged_mask_costs_the_mask_alone(record: Record, tmp_path: Path) -> None:
    for mask in (MASK[:-20], b"", mask_png(np.zeros(SIZE, bool))):
        record.add("confirmed_defect", "dent", mask=mask)
    out = tmp_path / "set"
    done = invoke("labels", "collect", "--record", record.folder, "--output", out)
    assert done.exit_code == 0, done.output
    assert {name.partition("/")[0] for name in files(out)} == {"test"}
    assert "left out: 3: its mask is damaged" in done.output
    assert "nobody called a kept part good" in done.output


def test_parts_of_two_products_are_not_mixed(record: Record, tmp_path: Path) -> None:
    flange = record.add("confirmed_defect", "dent")
    bracket = record.add("confirmed_defect", "dent", model="bracket")
    record.say(record.add("false_alarm", model="lid"), "withdrawn")
    out = tmp_path / "set"
    command: Callable[..., Any] = lambda *more: invoke(  # noqa: E731
        "labels", "collect", "--record", record.folder, "--output", out, *more
    )
    unclear = command()
    assert code(unclear) == "data_invalid"
    assert "bracket, flange" in str(unclear.exception)
    unknown = command("--model", "lid")
    assert code(unknown) == "data_invalid"
    assert not out.exists()
    assert command("--model", "bracket").exit_code == 0
    assert files(out) == {f"test/dent/{bracket}.png"}
    assert flange != bracket


def test_only_a_new_folder_is_written_to(record: Record, tmp_path: Path) -> None:
    record.add("confirmed_defect", "dent")
    out = tmp_path / "set"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for place in (out, record.folder / "set", record.folder, out / "mine.txt"):
        refused = invoke("labels", "collect", "--record", record.folder, "--output", place)
        assert code(refused) == "output_refused"
    assert files(out) == {"mine.txt"}
    (out / "mine.txt").unlink()
    assert invoke("labels", "collect", "--record", record.folder, "--output", out).exit_code == 0


def test_nothing_is_left_of_what_cannot_be_done(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    collect = ("labels", "collect", "--record", record.folder, "--output", out)
    assert code(invoke(*collect)) == "data_invalid"  # nothing is said yet
    record.add("confirmed_defect", "dent", image=None)
    nothing = invoke(*collect)
    assert code(nothing) == "data_invalid"
    assert "its image is not kept" in str(nothing.exception)
    record.add("confirmed_defect", "dent")

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        failed = invoke(*collect)
    assert isinstance(failed.exception, OSError)
    assert {path.name for path in tmp_path.iterdir()} == {"record"}
    empty = tmp_path / "empty"
    nowhere = invoke("labels", "collect", "--record", empty, "--output", out)
    assert code(nowhere) == "nothing_recorded"


def test_it_reads_beside_a_service_and_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "record", tmp_path / "set"
    with served(tiny_folder, folder, keep="all") as client:
        part = client.post("/score", content=BAD).json()["result_id"]
        results(client, 1)
        client.app.state.parts.inspector.recording._keeper.flush()  # type: ignore[attr-defined]
        said = {"kind": "confirmed_defect", "defect": "dent"}
        assert client.post(f"/v1/results/{part}/feedback", json=said).status_code == 201
        assert client.post(f"/v1/results/{part}:accept", json={}).status_code == 204
        before = {path: path.read_bytes() for path in folder.rglob("kept/**/*") if path.is_file()}
        done = invoke("labels", "collect", "--record", folder, "--output", out)
        assert done.exit_code == 0, done.output
        mask = client.get(f"/v1/results/{part}/mask").content
        assert {path: path.read_bytes() for path in before} == before
        client.post("/score", content=BAD)
        results(client, 2)  # the service still has its journal
    assert (out / f"ground_truth/dent/{part}_mask.png").read_bytes() == mask
    (sample,) = listed(out).samples
    marked = read_mask(sample, SIZE)
    np.testing.assert_array_equal(marked, np.asarray(Image.open(io.BytesIO(mask))) > 0)
    assert marked.any()
