"""Which pixels people mark as defective, over HTTP."""

import io
import os
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from record.keep import KeptStore
from service.http.api_keys import Role, add_key
from tests.conftest import jpeg
from tests.service.results.test_evidence import BAD, GOOD, flush
from tests.service.routes.test_results import results, served

SIZE = (96, 128)
MARKED = np.zeros(SIZE, bool)
MARKED[20:60, 70:90] = True
A, B = {"X-Maskline-Reviewer": "tab-a"}, {"X-Maskline-Reviewer": "tab-b"}


@pytest.fixture
def client(tiny_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with served(tiny_folder, tmp_path, keep="all") as open_client:
        yield open_client


def inspected(client: TestClient, image: bytes = BAD, **more: Any) -> str:
    result_id: str = client.post("/score", content=image, **more).json()["result_id"]
    for _ in range(300):  # it is stored a moment later
        if client.get(f"/v1/results/{result_id}", **more).status_code == 200:
            break
        time.sleep(0.01)
    flush(client)
    return result_id


def url(result_id: str) -> str:
    return f"/v1/results/{result_id}/mask"


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"] if answer.content else ""


def as_png(pixels: np.ndarray, **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels), **options)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def palette(marked: np.ndarray, transparency: int | None = None) -> bytes:
    image = Image.fromarray(marked.astype(np.uint8), "L").convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


def painted(marked: np.ndarray) -> np.ndarray:
    """Red strokes on nothing, as a canvas has them; what is transparent has a colour as well."""
    return np.dstack([np.full(SIZE, 255), *[np.zeros(SIZE)] * 2, 255 * marked]).astype(np.uint8)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


FORMS = {
    "grey": as_png(MARKED.astype(np.uint8)),  # however little
    "1 bit": as_png(MARKED),
    "16 bit": as_png(MARKED.astype(np.uint16)),
    "RGB": as_png(np.dstack([np.zeros((*SIZE, 2)), 7 * MARKED]).astype(np.uint8)),
    "RGBA": as_png(painted(MARKED)),
    "grey with alpha": as_png(painted(MARKED)[..., [0, 3]]),
    "palette": palette(MARKED),
    "palette, transparent ground": palette(MARKED, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_png_marks_the_same(client: TestClient, form: str) -> None:
    result = inspected(client)
    assert code(client.get(url(result))) == (404, "mask_missing")
    assert not client.get(f"/v1/results/{result}").json()["mask"]
    put = client.put(url(result), content=FORMS[form], headers={"Content-Type": "image/png"})
    assert (put.status_code, put.content) == (204, b"")
    read = client.get(url(result))
    assert read.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(opened(read.content), MARKED * np.uint8(255))
    assert client.get(f"/v1/results/{result}").json()["mask"]


def header_bomb(width: int, height: int) -> bytes:
    """A head that claims a huge picture, and next to nothing behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = (head, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 0xFF]) + data[-19:]


REFUSED = {
    "nothing": b"",
    "text": b"<svg/>",
    "JPEG": jpeg(np.repeat(255 * MARKED[..., None].astype(np.uint8), 3, axis=2)),
    "truncated": FORMS["grey"][:-30],
    "damaged": flipped(FORMS["grey"]),
    "head alone": FORMS["grey"][:33],
    "head cut": FORMS["grey"][:20],
    "another size": as_png(np.ones((95, 128), np.uint8)),
    "on its side": as_png(MARKED.T.astype(np.uint8)),
    "a pixel": as_png(np.ones((1, 1), np.uint8)),
    "all black": as_png(np.zeros(SIZE, np.uint8)),
    "all transparent": as_png(painted(np.zeros(SIZE, bool))),
    "black paint": as_png(np.dstack([np.zeros((*SIZE, 3)), 255 * MARKED]).astype(np.uint8)),
    "palette, marks transparent": palette(MARKED, 1),
    "bomb": header_bomb(10_000, 10_000),
    "bomb of the right size": header_bomb(128, 96),
}


def test_what_is_no_mask_is_refused_and_changes_nothing(client: TestClient, tmp_path: Path) -> None:
    result = inspected(client)
    for name, sent in REFUSED.items():
        assert code(client.put(url(result), content=sent)) == (422, "mask_invalid"), name
    assert code(client.get(url(result))) == (404, "mask_missing")
    assert not list(tmp_path.rglob("cases/*"))  # not even pinned
    client.put(url(result), content=FORMS["1 bit"])
    stored = client.get(url(result)).content
    for name, sent in REFUSED.items():
        refused = client.put(url(result), content=sent)
        assert len(refused.json()["detail"]) > 20, name
    assert client.get(url(result)).content == stored


def test_a_bomb_is_refused_by_its_head(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    result = inspected(client)

    def decode(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("cv2.imdecode", decode)
    refused = client.put(url(result), content=header_bomb(10_000, 10_000))
    assert code(refused) == (422, "mask_invalid")
    assert "10000×10000" in refused.json()["detail"]


def test_bodies_are_bounded(tiny_folder: Path, tmp_path: Path) -> None:
    with served(tiny_folder, tmp_path, keep="all", max_body_bytes=40_000) as client:
        result = inspected(client)
        assert code(client.put(url(result), content=bytes(40_001))) == (413, "body_too_large")
        budget = client.app.state.parts.inspector.budget  # type: ignore[attr-defined]
        with budget.open() as charge:
            charge.add(budget.total_bytes - 1000)
            refused = client.put(url(result), content=FORMS["grey"])
        assert code(refused) == (429, "memory_in_use")
        assert refused.headers["retry-after"]
        assert client.put(url(result), content=FORMS["grey"]).status_code == 204
        assert budget.taken_bytes == 0


def test_a_mask_replaces_the_one_before_and_can_be_removed(client: TestClient) -> None:
    result = inspected(client)
    other = ~MARKED
    for marked in (MARKED, other):
        client.put(url(result), content=as_png(marked))
    np.testing.assert_array_equal(opened(client.get(url(result)).content) > 0, other)
    assert client.delete(url(result)).status_code == 204
    assert code(client.delete(url(result))) == (404, "mask_missing")
    assert code(client.get(url(result))) == (404, "mask_missing")
    assert client.get(f"/v1/results/{result}/image").content == BAD
    assert client.put(url(result), content=FORMS["grey"]).status_code == 204


def test_it_stays_for_good_with_its_picture_over_a_restart(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with served(tiny_folder, tmp_path, keep="all") as client:
        result = inspected(client)
        client.put(url(result), content=FORMS["grey"])
    names = {path.name for path in (tmp_path / "kept/cases").iterdir()}
    assert names == {f"{result}.{kind}" for kind in ("image", "evidence", "mask")}
    with served(tiny_folder, tmp_path, keep="all", keep_days=1e-9) as client:
        store = client.app.state.parts.inspector.recording._keeper.store  # type: ignore[attr-defined]
        store.tidy(datetime.now(UTC))
        assert (opened(client.get(url(result)).content) > 0).sum() == MARKED.sum()
        assert client.get(f"/v1/results/{result}/image").content == BAD


def test_the_file_says_who_marked_it_when_and_how(tiny_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    score = {"X-API-Key": add_key(keys, "line", Role.OPERATE)}
    anna = {"X-API-Key": add_key(keys, "anna", Role.REVIEW)}
    view = {"X-API-Key": add_key(keys, "viewer", Role.VIEW)}
    camera = {"X-API-Key": add_key(keys, "camera", Role.SCORE)}
    with served(tiny_folder, tmp_path, keep="all", auth="keys", keys_file=keys) as client:
        result = inspected(client, headers=score)
        for key, status in ((view, 403), (camera, 403), ({}, 401), (anna, 204)):
            put = client.put(url(result), content=FORMS["grey"], headers=key)
            assert put.status_code == status
        text = Image.open(io.BytesIO(client.get(url(result), headers=view).content)).text  # type: ignore[attr-defined]
        assert (text["Author"], text["Comment"]) == ("anna", "drawn")
        assert text["Creation Time"].startswith("20")
        assert text["Creation Time"].endswith("+00:00")
        assert client.get(url(result), headers=camera).status_code == 403
        accepted = f"/v1/results/{result}:accept"
        assert client.post(accepted, json={}, headers=view).status_code == 403
        assert client.delete(url(result), headers=view).status_code == 403
        assert client.post(accepted, json={}, headers=score).status_code == 204
        text = Image.open(io.BytesIO(client.get(url(result), headers=view).content)).text  # type: ignore[attr-defined]
        assert (text["Author"], text["Comment"]) == ("line", "accepted")


def test_what_somebody_else_looks_at_is_theirs(client: TestClient) -> None:
    result = inspected(client)
    client.post(f"/v1/results/{result}:claim", headers=A)
    accept = f"/v1/results/{result}:accept"
    for headers in (B, {}):
        refused = client.put(url(result), content=FORMS["grey"], headers=headers)
        assert code(refused) == (409, "claimed")
        assert code(client.post(accept, json={}, headers=headers)) == (409, "claimed")
        assert code(client.delete(url(result), headers=headers)) == (409, "claimed")
    assert client.put(url(result), content=FORMS["grey"], headers=A).status_code == 204
    assert code(client.post(f"/v1/results/{result}:claim", headers=B)) == (409, "claimed")


def test_without_a_result_or_its_picture_there_is_no_mask(
    client: TestClient, tmp_path: Path
) -> None:
    for result in ("none", "0" * 32, "a%2Fb"):
        for answer in (
            client.put(url(result), content=FORMS["grey"]),
            client.get(url(result)),
            client.delete(url(result)),
            client.post(f"/v1/results/{result}:accept", json={}),
        ):
            assert answer.status_code == 404
            assert answer.json()["code"] in ("result_not_found", "route_not_found")
    result = inspected(client)
    for path in tmp_path.rglob(f"{result}.*"):
        path.unlink()
    assert code(client.put(url(result), content=FORMS["grey"])) == (404, "nothing_kept")
    assert code(client.post(f"/v1/results/{result}:accept", json={})) == (404, "nothing_kept")
    assert code(client.get(url(result))) == (404, "mask_missing")


@pytest.mark.parametrize("policy", ["none", "anomalies"])
def test_of_a_part_that_was_not_kept_nothing_can_be_marked(
    tiny_folder: Path, tmp_path: Path, policy: str
) -> None:
    with served(tiny_folder, tmp_path, keep=policy) as client:
        result = client.post("/score?threshold=1e6", content=GOOD).json()["result_id"]
        results(client, 1)
        assert code(client.put(url(result), content=FORMS["grey"])) == (404, "nothing_kept")
        assert code(client.get(url(result))) == (404, "mask_missing")
        assert code(client.delete(url(result))) == (404, "mask_missing")
        assert not client.get(f"/v1/results/{result}").json()["mask"]


def test_a_picture_whose_evidence_is_lost_can_still_be_marked(
    client: TestClient, tmp_path: Path
) -> None:
    result = inspected(client)
    for path in tmp_path.rglob("*.evidence"):
        path.unlink()
    assert client.put(url(result), content=FORMS["grey"]).status_code == 204
    assert code(client.post(f"/v1/results/{result}:accept", json={})) == (404, "nothing_kept")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_mask_is_as_large_as_the_upright_picture(client: TestClient, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.open(io.BytesIO(BAD)).convert("RGB").save(file, "JPEG", quality=95, exif=exif)
    result = inspected(client, file.getvalue())
    upright = MARKED.T if orientation in (6, 8) else MARKED
    assert code(client.put(url(result), content=as_png(upright.T))) == (422, "mask_invalid")
    assert client.put(url(result), content=as_png(upright)).status_code == 204
    np.testing.assert_array_equal(opened(client.get(url(result)).content) > 0, upright)
    # A mask that is turned by its own EXIF is looked at upright, too.
    lying = as_png(np.rot90(upright), exif=turned(6))
    assert client.put(url(result), content=lying).status_code == 204
    np.testing.assert_array_equal(opened(client.get(url(result)).content) > 0, upright)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_of_many_who_write_at_once_one_wins_whole(client: TestClient) -> None:
    result = inspected(client)
    noise = np.random.default_rng(0).random((8, *SIZE)) < 0.5
    noise[:, 0, 0] = True
    with ThreadPoolExecutor(8) as pool:
        puts = pool.map(lambda k: client.put(url(result), content=as_png(noise[k])), range(8))
        reads = list(pool.map(lambda _: client.get(url(result)), range(40)))
        assert [put.status_code for put in puts] == [204] * 8
    for read in (*reads, client.get(url(result))):
        if read.status_code == 200:
            marked = opened(read.content) > 0
            assert any((marked == one).all() for one in noise)
    assert read.status_code == 200
    recording = client.app.state.parts.inspector.recording  # type: ignore[attr-defined]
    assert not list(Path(recording._keeper.store._root).rglob("*.part"))


def test_a_disk_that_is_full_keeps_the_mask_before(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = inspected(client)
    client.put(url(result), content=FORMS["grey"])
    stored = client.get(url(result)).content

    def full(self: KeptStore, result_id: str, mask: bytes) -> bool:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(KeptStore, "put_mask", full)
    assert code(client.put(url(result), content=as_png(~MARKED))) == (507, "storage_failed")
    assert client.get(url(result)).content == stored
